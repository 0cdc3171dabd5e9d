"""Run in a forked process: a training that is killed at some steps, each time in a fork of its own, and resumed."""

import os
import signal
import traceback


def train_whole_and_killed(settings, whole, killed):
    """Prints the exit codes of a whole run, then of one killed before steps 1, 7 and 13, and then resumed to its end."""
    import forks
    import numpy as np

    import clearsight
    from clearsight.engines.dense_engine import DenseEngine
    from clearsight.engines.torch_engine import TorchEngine

    forks.draw_no_report()
    engine = TorchEngine if settings["train"].get("engine") == "torch" else DenseEngine
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 5, 5)).astype(np.uint8), np.minimum(np.arange(60) % 7, 2)
    original = engine.train_steps

    def train(path, stop):
        def stopped(self, order, **options):
            if options["first_step"] == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, order, **options)

        engine.train_steps = stopped
        how = {"resume": path} if path.is_dir() else {"out": path, "config": settings}
        clearsight.train(images, labels, **how)

    def in_child(path, stop):
        pid = os.fork()
        if pid == 0:
            try:
                train(path, stop)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    print([in_child(whole, -1), *(in_child(killed, stop) for stop in (1, 7, 13, -1))])
