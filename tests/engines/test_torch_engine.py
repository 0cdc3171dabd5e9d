"""The torch engine: the same mathematics as the dense one, the same bits after a stop, and what only it can do."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL_CNN

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.engines.objective import DENSE_OPTIMIZERS
from clearsight.engines.torch_optimizers import build_optimizer
from clearsight.errors import DivergedError, Interrupted, UsageError
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.pipeline.train_in_memory import train_dataset

pytestmark = pytest.mark.usefixtures("own_cache")
CNN = {"family": "cnn", "widths": (4, 6), "depths": (1, 2)}
AUGMENT = {"unsafe": "ignore", "rotate": 10.0, "shift": 0.1, "noise": 0.05, "mixup": 0.4}
STEPS = 20


def data(task="classification", size=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, size, size)).astype(np.uint8)
    return load_data(images, np.minimum(np.arange(60) % 7, 2) + (0.5 if task == "regression" else 0), task=task)


def config(model=CNN, augment=None, **train):
    return build_config({
        "data": {"test_fraction": 0.2, "valid_fraction": 0.1}, "augment": augment or {}, "model": model,
        "train": {"epochs": 4, "batch_size": 9, **train},
    })  # fmt: skip


OPTIONS = [
    *({"optimizer": name} for name in DENSE_OPTIMIZERS),
    {"dropout": 0.4}, {"l1": 0.01}, {"l2": 0.1}, {"weight_decay": 0.1}, {"clip_norm": 0.1}, {"label_smoothing": 0.2},
    {"class_weights": (1.0, 3.0, 0.0)}, {"class_weights": "balanced", "sampling": "balanced"}, {"reduction": "sum"},
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("augment", [{}, {**AUGMENT, "cutmix": 1.0}], ids=["plain", "mixed"])
def test_a_dense_net_trains_as_in_the_textbook(options, augment):
    model = {"hidden": (7, 5), "activation": ("tanh", "gelu"), "bias_init": "normal"}
    found = [
        train_dataset(config(model, augment, lr=0.01, engine=engine, **options), data())
        for engine in ("reference", "torch")
    ]
    np.testing.assert_allclose(found[0].bundle.params, found[1].bundle.params, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(found[0].history.step_losses, found[1].history.step_losses, rtol=1e-3)
    assert found[0].history.column("train_accuracy") == found[1].history.column("train_accuracy")


@pytest.mark.long
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "identity"])
@pytest.mark.parametrize("bias", ["unit", "shared", "none"])
def test_every_activation_and_bias_trains_as_in_the_textbook(activation, bias):
    model = {"hidden": (7,), "activation": activation, "bias": bias}
    wanted = {"lr": 0.01, "optimizer": "momentum"}  # Adam would divide the trace that rounding leaves of a shared bias
    found = [train_dataset(config(model, engine=e, **wanted), data()).bundle.params for e in ("reference", "torch")]
    np.testing.assert_allclose(*found, rtol=2e-3, atol=2e-4)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("augment", [{}, AUGMENT], ids=["plain", "mixed"])
def test_regressions_train_as_in_the_textbook(loss, augment):
    model = {"hidden": (7,)}
    found = [
        train_dataset(config(model, augment, engine=engine, loss=loss), data("regression"))
        for engine in ("reference", "torch", "dense")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0].bundle.params, other.bundle.params, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(found[0].history.step_losses, other.history.step_losses, rtol=1e-3)


def in_steps(folder, stops, **train):
    """Train a conv net in a folder, stopped on request after each of `stops` steps and resumed."""
    wanted = config(
        augment=AUGMENT, checkpoint_steps=1, dropout=0.25, sampling="balanced", schedule="one-cycle", **train
    )
    for stop in [*stops, None]:
        prepared = prepare(wanted, data())
        original = prepared.engine.train_steps

        def counted(order, original=original, stop=stop, **options):
            result = original(order, **options)
            if options["first_step"] + len(options["lrs"]) == stop:
                import signal

                signal.raise_signal(signal.SIGINT)
            return result

        prepared.engine.train_steps = counted
        try:
            result = fit_prepared(prepared, checkpoints=folder, resume=bool(stops) and stop != stops[0])
        except Interrupted as stopped:
            assert f"after step {stop}." in str(stopped)
        else:
            state = {name: values.tobytes() for name, values in prepared.engine.state().items()}
            return (
                state,
                result.history.step_losses.tobytes(),
                result.history.column("train_accuracy"),
                result.history.column("valid_loss"),
            )
    raise AssertionError("a run must end")


RESUMED = [{"optimizer": name} for name in (*DENSE_OPTIMIZERS, "muon")] + [
    {"ema": 0.9}, {"lookahead": 3}, {"accumulate": 2}, {"ema": 0.9, "lookahead": 3, "patience": 2, "precision": "bfloat16"},
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("options", RESUMED, ids=str)
def test_stopped_and_resumed_is_byte_identical(options, tmp_path):
    whole = in_steps(tmp_path / "whole", [], **options)
    assert in_steps(tmp_path / "some", [1, 5, 6, 13], **options) == whole


@pytest.mark.long
def test_stopped_at_chosen_steps_and_at_each_in_turn_and_resumed_is_byte_identical(tmp_path):
    whole = in_steps(tmp_path / "whole", [], ema=0.9)
    for step in (1, 2, 5, 6, STEPS - 1):
        assert in_steps(tmp_path / str(step), [step], ema=0.9) == whole, step
    assert in_steps(tmp_path / "each", list(range(1, STEPS)), ema=0.9) == whole


@pytest.mark.long
def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not():
    one, again, other = (
        train_dataset(config(augment=AUGMENT, dropout=0.2, seed=seed), data()).bundle.params for seed in (1, 1, 2)
    )
    assert one.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_parts_of_a_batch_add_up_to_it(norm):
    model = {**CNN, "norm": norm}
    whole, parts = (
        train_dataset(
            config(model, AUGMENT, accumulate=n, dropout=0.3, optimizer="sgd", class_weights="balanced"), data()
        )
        for n in (1, 4)
    )
    same = np.allclose(whole.bundle.params, parts.bundle.params, rtol=1e-3, atol=1e-5)
    assert same == (norm == "none")  # batch normalisation sees the parts
    if same:
        np.testing.assert_allclose(whole.history.step_losses, parts.history.step_losses, rtol=1e-4)


def test_the_running_average_is_what_is_judged_and_kept():
    chosen = config(ema=0.5, epochs=1, optimizer="sgd", lr=0.1).model_dump(exclude_unset=True)
    prepared = prepare(build_config(chosen | {"eval": {"calibrate": False}}), data())
    engine, order = prepared.engine, prepared.split.train
    first = engine.params()
    average = first.astype(np.float64)
    for step in range(3):
        engine.train_steps(order, epoch=0, first_batch=step, first_step=step, lrs=np.array([0.1]))
        now = engine.state()["params"]
        average += (1 - min(0.5, (1 + step) / (10 + step))) * (now - average)
    np.testing.assert_allclose(engine.params(), average, rtol=1e-5, atol=1e-6)
    assert not np.allclose(engine.params(), now, atol=1e-4)
    result = fit_prepared(prepared)
    from clearsight.pipeline.judge import judge

    run, _ = judge(prepared, result)
    assert run.valid.loss == pytest.approx(result.history.epochs[-1]["valid_loss"], rel=1e-5)


def test_lookahead_goes_half_way_back():
    def weights(lookahead, steps):
        prepared = prepare(config({**CNN, "norm": "none"}, lookahead=lookahead, optimizer="sgd"), data())
        prepared.engine.train_steps(prepared.split.train, epoch=0, first_batch=0, first_step=0, lrs=np.full(steps, 0.1))
        return prepared.engine.params()

    np.testing.assert_allclose(weights(2, 2), (weights(0, 0) + weights(0, 2)) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(weights(3, 2), weights(0, 2))


@pytest.mark.parametrize("optimizer", [*DENSE_OPTIMIZERS, "muon"])
def test_every_optimizer_solves_a_quadratic(optimizer):
    from clearsight.engines.objective import Objective

    rng = np.random.default_rng(0)
    goal = torch.from_numpy(rng.normal(size=(6 * 4 + 5)).astype(np.float32))
    values, grad = torch.zeros_like(goal), torch.zeros_like(goal)
    stepper = build_optimizer(Objective(optimizer=optimizer), values, grad, shapes=[(5,), (6, 4)])
    for step in range(400):
        grad.copy_(values - goal)
        stepper.step((0.5 if optimizer == "muon" else 0.05) * (1 - step / 400))
    assert float((values - goal).abs().max()) < 0.02


def test_muon_moves_matrices_along_orthogonal_directions():
    from clearsight.engines.objective import Objective

    rng = np.random.default_rng(0)
    grad = torch.from_numpy(rng.normal(size=8 * 3 * 4 + 4 * 2).astype(np.float32))
    values = torch.zeros_like(grad)
    build_optimizer(Objective(optimizer="muon"), values, grad, shapes=[(8, 3, 2, 2), (4, 2)]).step(1.0)
    singular = np.linalg.svd(values[:96].view(8, 12).numpy(), compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.5
    np.testing.assert_allclose(
        values[96:].abs().numpy(), 0.15, rtol=1e-3
    )  # the last layer goes by Adam, at 0.15 of the rate


@pytest.mark.parametrize(
    ("processor", "precision", "told"),
    [("AVX2", "bfloat16", True), ("AVX512", "bfloat16", False), ("AVX2", "auto", False)],
)
def test_bfloat16_on_a_processor_without_it_is_told(processor, precision, told, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    notes = prepare(config(precision=precision), data()).notes
    slow = (
        "products in bfloat16 can take several times as long as in float32 on this processor. Try --precision float32"
    )
    assert (slow in notes) == told


@pytest.mark.long
def test_bfloat16_learns_and_is_judged_in_float32():
    run = train_dataset(config(precision="bfloat16", epochs=8), data())
    exact = train_dataset(config(epochs=8), data())
    assert run.bundle.params.tobytes() != exact.bundle.params.tobytes()
    assert run.train.loss == pytest.approx(exact.train.loss, abs=0.1)
    logits = run.bundle.logits(data().images[:5])
    np.testing.assert_allclose(
        np.concatenate([run.bundle.logits(data().images[i : i + 1]) for i in range(5)]), logits, rtol=1e-4, atol=1e-5
    )


def test_divergence_goes_back_to_the_last_good_weights():
    with pytest.raises(DivergedError, match=r"must stay finite, got .* Kept the weights of epoch 0") as caught:
        train_dataset(config({**CNN, "norm": "none"}, optimizer="sgd", lr=1e30), data())
    first = prepare(config({**CNN, "norm": "none"}), data()).engine.params()
    assert caught.value.run.bundle.params.tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"family": "cnn"}, {"engine": "dense"}, r"^engine dense must have model mlp, got cnn\. Set train\.engine to torch, or leave it out\.$"),
        ({}, {"engine": "dense", "optimizer": "muon"}, r"^optimizer muon must go with engine torch, got engine dense\."),
        ({}, {"engine": "dense", "ema": 0.9}, r"^ema must go with engine torch, got 0\.9 without\."),
        ({}, {"engine": "reference", "device": "cuda"}, r"^device must go with engine torch, got cuda without\."),
        ({"family": "cnn", "hidden": (5,)}, {}, r"^hidden must go with model mlp or vgg, got \(5,\) without\."),
        ({"family": "cnn", "activation": ("relu", "relu")}, {}, r"^activation must be one name for cnn, got \['relu', 'relu'\]\."),
        ({"widths": (5,)}, {}, r"^widths must go with a convolutional model of our own, got \(5,\) without\."),
        ({"family": "vgg"}, {}, r"^pictures must be 16x16 or more for vgg of 4 stages, got 8x8\. Use preprocess.image_size or model.pad_to, or fewer widths\.$"),
        ({"family": "cnn", "widths": (3, 3)}, {}, r"^widths and depths must be one a stage, got 2 and 3\. Give as many\.$"),
        ({"family": "resnet8", "widths": (3, 3), "depths": (1, 1)}, {}, r"^widths and depths of resnet8 must be 3 and 3 numbers, got 2 and 2\."),
        ({"family": "cnn", "pad_to": 4}, {}, r"^pad_to must be 8 or more, the picture's side, got 4\. Raise it\.$"),
        ({"family": "cnn", "kernel": 4}, {}, r"^kernel must be odd, got 4\. Use 5\.$"),
        ({"family": "cnn"}, {"loss": "huber"}, r"^loss must be cross_entropy for this data, got huber\. Leave it out, or set data\.task\.$"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(model, train, message):
    with pytest.raises(UsageError, match=message):
        prepare(config(model, **train), data())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        UsageError, match=r"^device must be one that PyTorch finds here \(cpu\), got cuda\. Choose one of them\.$"
    ):
        prepare(config(device="cuda"), data())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_bits_again_and_nearly_those_of_a_cpu():
    def weights(device):
        wanted = config(augment=AUGMENT, device=device, precision="float32", dropout=0.25, optimizer="sgd", lr=0.01)
        return train_dataset(wanted, data()).bundle.params

    assert weights("cuda").tobytes() == weights("cuda").tobytes()
    np.testing.assert_allclose(weights("cuda"), weights("cpu"), rtol=5e-3, atol=5e-4)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of PyTorch's own
def test_a_compiled_net_trains_like_one_that_is_not():
    # a batch of all rows: each other size of a batch is compiled anew
    wanted = {"dropout": 0.3, "optimizer": "sgd", "lr": 0.05, "epochs": 6, "batch_size": 60}
    small = {"family": "cnn", "widths": (4,), "depths": (1,)}
    # neither try what the processor can do, nor prepare for many more networks
    with torch._inductor.config.patch({"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False}):
        plain, compiled = (train_dataset(config(small, AUGMENT, compile=c, **wanted), data()) for c in (False, True))
    np.testing.assert_allclose(plain.bundle.params, compiled.bundle.params, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(plain.history.step_losses, compiled.history.step_losses, rtol=1e-4)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        UsageError,
        match=r"^compile must have a C\+\+ compiler, got none\. Install g\+\+, or leave train\.compile out\.$",
    ):
        prepare(config(compile=True), data())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_told_as_such(error, monkeypatch, call, capsys, tmp_path):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("clearsight.engines.torch_engine.run_module", fail)
    assert call("train", "digits", "--model", "cnn", "--epochs", "1", "--root", tmp_path) == 1
    assert "error: memory must hold data and network, got none left." in capsys.readouterr().err


@pytest.mark.parametrize("augment", [{}, AUGMENT], ids=["plain", "mixed"])
def test_a_last_batch_of_one_row_trains_too(augment):
    """41 rows in batches of 10, where the last maps are a single pixel, which batch normalisation cannot measure."""
    images, labels = np.random.default_rng(0).integers(0, 256, (41, 8, 8)).astype(np.uint8), np.arange(41) % 3
    split = {"test_fraction": 0.0, "valid_fraction": 0.0}
    model = {"family": "cnn", "widths": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "pooling": "mean"}
    wanted = build_config({"data": split, "model": model, "augment": augment, "train": {"batch_size": 10, "epochs": 2}})
    run = train_dataset(wanted, load_data(images, labels))
    assert np.isfinite(run.history.step_losses).all()


@pytest.mark.long
@pytest.mark.report
def test_the_weights_of_every_epoch_are_drawn(tmp_path, call):
    flags = [*SMALL_CNN, "--epochs", "2", "--weight-history", "--quiet"]
    assert call("train", "digits", *flags, "--out", tmp_path / "r") == 0
    html = (tmp_path / "r" / "report.html").read_text()
    assert "Weights over the epochs" in html
    assert "features.0.weight: 4 × 1 × 3 × 3" in html


def test_batch_normalisation_of_single_rows_still_measures_maps_of_many_places():
    prepared = prepare(config(CNN, batch_size=1), data())
    prepared.engine.train_steps(prepared.split.train, epoch=0, first_batch=0, first_step=0, lrs=np.full(5, 0.01))
    found = prepared.net.tensors(prepared.engine.params())
    assert (found["features.2.running_mean"] != 0).all()


def test_muon_moves_dense_nets_as_it_moves_pytorchs_own_layers():
    from clearsight.engines.objective import Objective

    grad = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    moved = []
    for inputs_first, first in ((True, grad), (False, grad.t().contiguous())):
        values = torch.zeros(124)
        flat = torch.cat([first.reshape(-1), torch.ones(4)])
        stepper = build_optimizer(
            Objective(optimizer="muon"), values, flat, shapes=[tuple(first.shape), (4, 1)], inputs_first=inputs_first
        )
        stepper.step(1.0)
        moved.append(values[:120].view(first.shape))
    np.testing.assert_allclose(moved[0].numpy(), moved[1].t().numpy(), rtol=1e-2, atol=1e-3)


def test_validation_measures_the_loss_that_is_trained():
    rng = np.random.default_rng(0)
    targets = np.where(np.arange(200) % 20 == 0, 100.0, rng.normal(size=200)).astype(np.float32)
    dataset = load_data(rng.integers(0, 256, (200, 8, 8)).astype(np.uint8), targets, task="regression")
    prepared = prepare(build_config({"train": {"loss": "huber", "huber_delta": 0.5, "epochs": 1}}), dataset)
    row = fit_prepared(prepared).history.epochs[0]
    p, rows = prepared.preprocess, prepared.split.valid
    error = prepared.engine.logits(rows)[:, 0] - (targets[rows] - p.target_mean) / p.target_std
    expected = np.where(np.abs(error) <= 0.5, 0.5 * error**2, 0.5 * (np.abs(error) - 0.25)).mean()
    assert row["valid_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.long
def test_the_record_names_what_the_bits_depend_on(tmp_path, call):
    import json

    assert call("train", "digits", *SMALL_CNN, "--epochs", "1", "--quiet", "--out", tmp_path / "r") == 0
    found = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert (found["engine"], found["device"], found["products"], found["processes"]) == ("torch", "cpu", "float32", 1)
    assert found["threads"] >= 1
    assert found["torch"] == torch.__version__
