"""The one way to stop a training: it is asked, by Ctrl-C, SIGTERM or a thread, and stops at the next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A wish to stop a training, which the fit loop grants between two steps, after saving; any thread may ask.

    Args:
        received: the signal that asked, or as which it was asked; None as long as nobody has.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def ask(self, number: int = signal.SIGINT) -> None:
        """Stop soon, and end as that signal would."""
        self.received = int(number)


@contextmanager
def listen_for_signals(request: StopRequest, *, enabled: bool = True) -> Iterator[None]:
    """While entered, the first SIGINT or SIGTERM asks `request` to stop; a second SIGINT stops at once.

    A SIGINT that was ignored before stays ignored: nohup and scripts that start a job with `&` mean that Ctrl-C is not for it.
    Not `enabled`, or in any other than the main thread, it does nothing, because Python delivers signals to the main thread only.

    Raises:
        KeyboardInterrupt: SIGINT came again.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        if request.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.ask(number)

    heard = [signal.SIGTERM, signal.SIGINT] if enabled and threading.current_thread() is threading.main_thread() else []
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        heard = [number for number in heard if number != signal.SIGINT]
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
