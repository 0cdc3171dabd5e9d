"""Training on varied pictures: equal seeds equal bytes, engines agree, kill and resume change nothing, validation stays clean;
presets follow the data."""

import signal

import killed_runs
import numpy as np
import pytest
from processes import LIMIT_SECONDS

from clearsight.augment.presets import PRESETS, TRANSFORMS, Augmentation, build_augmentation
from clearsight.config.build import build_config
from clearsight.data.dataset import build_dataset
from clearsight.data.read.load import load_data
from clearsight.engines import dense_engine as engine_module
from clearsight.engines.dense_engine import DenseEngine
from clearsight.engines.predictor import Predictor
from clearsight.errors import Interrupted, UsageError
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.pipeline.train_in_memory import train_dataset
from clearsight.report import contact
from clearsight.training import fit as fit_module

STRENGTHS = {
    "hflip": 0.5, "vflip": 0.5, "rot90": 0.5, "rotate": 20.0, "shear": 10.0, "zoom": 0.2, "shift": 0.1, "crop": 0.2,
    "brightness": 0.2, "contrast": 0.2, "color": 0.3, "blur": 0.8, "noise": 0.1, "cutout": 0.3, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip
AUGMENT = {"unsafe": "ignore", "rotate": 10.0, "shift": 0.1, "noise": 0.05, "mixup": 0.4}
TRAIN = {"epochs": 4, "batch_size": 9, "dropout": 0.25, "sampling": "balanced", "schedule": "cosine"}
ROWS, STEPS = 43, 20  # training rows in batches of 9, four epochs


pytestmark = pytest.mark.usefixtures("own_cache")


def data(task="classification", dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 5, 5)).astype(dtype)
    return load_data(images, np.minimum(np.arange(60) % 7, 2) + (0.5 if task == "regression" else 0), task=task)


def config(augment=AUGMENT, **train):
    return build_config({
        "data": {"test_fraction": 0.2, "valid_fraction": 0.1}, "augment": augment, "model": {"hidden": (5,)}, "train": {**TRAIN, **train},
    })  # fmt: skip


def weights(*args, dataset=None, **train):
    return train_dataset(config(*args, **train), dataset or data()).bundle.params


@pytest.mark.long
@pytest.mark.parametrize("name", TRANSFORMS)
def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(name):
    augment = {"unsafe": "ignore", name: STRENGTHS[name]}
    dataset = data()
    if name == "color":
        dataset = load_data(np.random.default_rng(0).integers(0, 256, (60, 5, 5, 3)).astype(np.uint8), dataset.labels)
    one, again, other = (weights(augment, dataset=dataset, seed=seed) for seed in (1, 1, 2))
    plain = weights({}, dataset=dataset, seed=1)
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()
    assert one.tobytes() != plain.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_engines_agree(preset):
    augment = {"unsafe": "ignore", "preset": preset}
    one, other = (weights(augment, engine=engine) for engine in ("dense", "reference"))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("augment", [AUGMENT, {**STRENGTHS, "unsafe": "ignore"}], ids=["some", "all"])
def test_engines_agree_on_mixed_and_varied_pictures(augment, task):
    sampling = {"sampling": "natural" if task == "regression" else "balanced"}
    found = [train_dataset(config(augment, engine=engine, **sampling), data(task)) for engine in ("dense", "reference")]
    np.testing.assert_allclose(found[0].bundle.params, found[1].bundle.params, rtol=1e-3, atol=1e-4)
    assert found[0].history.step_losses == pytest.approx(found[1].history.step_losses, rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_training_takes_pictures_of_both_kinds(dtype):
    assert np.isfinite(weights({**STRENGTHS, "unsafe": "ignore"}, dataset=data(dtype=dtype))).all()


@pytest.mark.long
@pytest.mark.parametrize("engine", ["dense", "reference"])
@pytest.mark.parametrize("bytes_", [1, 700, 2**24])
def test_how_pictures_are_cut_into_blocks_does_not_matter(bytes_, engine, monkeypatch):
    usual = weights(engine=engine)
    monkeypatch.setattr(engine_module, "_AUGMENTED_BYTES", bytes_)
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)
    assert weights(engine=engine).tobytes() == usual.tobytes()


def test_a_loss_that_is_not_finite_ends_a_varied_epoch_too(monkeypatch):
    monkeypatch.setattr(engine_module, "_AUGMENTED_BYTES", 1)
    prepared = prepare(config(), data())
    state = prepared.engine.state()
    prepared.engine.load_state(state | {"params": np.full_like(state["params"], np.nan)})
    order = prepared.split.train
    losses, hits = prepared.engine.train_steps(order, epoch=0, first_batch=0, first_step=0, lrs=np.full(5, 0.1))
    assert np.isnan(losses).tolist() == [True]
    assert hits == 0


def test_every_epoch_varies_the_pictures_anew_and_the_training_set_stays_as_it_is(monkeypatch):
    given, original = [], DenseEngine._train

    def watched(self, images, labels, targets, order, mixed, **options):
        given.append((images.copy(), labels, mixed))
        return original(self, images, labels, targets, order, mixed, **options)

    monkeypatch.setattr(DenseEngine, "_train", watched)
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)
    dataset = data()
    before = dataset.images.tobytes()
    train_dataset(config({"unsafe": "ignore", "rotate": 90.0}), dataset)
    pictures = np.concatenate([images for images, *_ in given])
    assert len(pictures) == 4 * ROWS
    assert len({picture.tobytes() for picture in pictures}) == 4 * ROWS
    assert dataset.images.tobytes() == before


def test_validation_and_evaluation_see_clean_pictures(monkeypatch):
    prepared, seen = prepare(config(weight_history=True), data()), []
    original = type(prepared.engine).logits
    monkeypatch.setattr(type(prepared.engine), "logits", lambda self, rows: seen.append(rows) or original(self, rows))
    drawn = []
    varied = engine_module.augment_rows
    monkeypatch.setattr(
        engine_module, "augment_rows", lambda images, rows, **o: drawn.append(rows) or varied(images, rows, **o)
    )
    result = fit_prepared(prepared)
    assert all(rows.tobytes() == prepared.split.valid.tobytes() for rows in seen)
    assert np.isin(np.concatenate(drawn), prepared.split.train).all()
    rows = prepared.split.valid
    for epoch, params in enumerate(result.history.weights[1:]):
        clean = Predictor(prepared.net, params, prepared.preprocess)(prepared.dataset.images, rows)
        expected = fit_module.mean_loss(clean, prepared.dataset.labels[rows])
        assert result.history.epochs[epoch]["valid_loss"] == pytest.approx(expected, rel=1e-6)


def test_pictures_are_mixed_with_training_rows_alone(monkeypatch):
    pools, varied = [], engine_module.augment_rows
    monkeypatch.setattr(engine_module, "augment_rows", lambda *a, **o: pools.append(o["pool"]) or varied(*a, **o))
    prepared = prepare(config(), data())
    fit_prepared(prepared)
    assert all(pool.tobytes() == prepared.split.train.tobytes() for pool in pools)


def in_steps(folder, stops, monkeypatch, **train):
    """Train in a folder, stopped on request after each of `stops` steps and resumed; the last parameters and losses."""
    wanted = config(checkpoint_steps=1, **train)
    kind = type(prepare(wanted, data()).engine)
    original = kind.train_steps
    for stop in [*stops, None]:
        prepared, done = prepare(wanted, data()), [0]

        def counted(self, order, stop=stop, done=done, **options):
            result = original(self, order, **options)
            done[0] = options["first_step"] + len(options["lrs"])
            if done[0] == stop:
                signal.raise_signal(signal.SIGINT)
            return result

        monkeypatch.setattr(kind, "train_steps", counted)
        try:
            result = fit_prepared(prepared, checkpoints=folder, resume=stop != stops[0] if stops else False)
        except Interrupted as stopped:
            assert f"after step {stop}." in str(stopped)
        else:
            return (
                prepared.engine.params().tobytes(),
                result.history.step_losses.tobytes(),
                result.history.column("train_accuracy"),
            )
    raise AssertionError("a run must end")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["dense", "reference"])
def test_stopped_at_every_step_and_resumed_is_byte_identical(engine, tmp_path, monkeypatch):
    whole = in_steps(tmp_path / "whole", [], monkeypatch, engine=engine)
    for step in range(1, STEPS):
        assert in_steps(tmp_path / str(step), [step], monkeypatch, engine=engine) == whole, step
    assert in_steps(tmp_path / "each", list(range(1, STEPS)), monkeypatch, engine=engine) == whole


@pytest.mark.long
@pytest.mark.parametrize("engine", ["dense", "torch"])
def test_a_killed_run_ends_with_the_same_model_file(engine, tmp_path, processes, fork_server):
    settings = config(checkpoint_steps=1, engine=engine).model_dump(exclude_unset=True)
    places = (tmp_path / "whole", tmp_path / "killed")
    process = processes.fork(fork_server, killed_runs.train_whole_and_killed, settings, *places)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert out.strip() == "[0, -9, -9, -9, 0]", err
    for name in ("model.clearsight", "steps.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_of_features_cannot_be_varied(tmp_path):
    features = load_data(np.random.default_rng(0).integers(0, 9, (40, 6)).astype(np.uint8), np.arange(40) % 2)
    assert features.picture_shape[0] == 1
    with pytest.raises(UsageError, match=r"^augment must go with pictures, got rows of features\. Leave it out\.$"):
        prepare(build_config({"augment": {"noise": 0.1}}), features)
    prepare(build_config({"augment": {"preset": "none"}}), features)


def bars(n, reach, rng):
    """Lying and standing bars, up to `reach` pixels off the middle."""
    labels = np.arange(n) % 2
    images = rng.integers(0, 80, (n, 12, 12)).astype(np.uint8)
    for image, label, at in zip(images, labels, 5 + rng.integers(-reach, reach + 1, n), strict=True):
        image[(slice(at, at + 2), slice(2, 10)) if label else (slice(2, 10), slice(at, at + 2))] += 120
    return images, labels


@pytest.mark.long
def test_shifted_training_pictures_help_where_test_pictures_are_shifted():
    """Bars stand in the middle in training, up to three pixels off in the test; 400 of these on each of four seeds."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        dataset = build_dataset({"train": bars(200, 0, rng), "test": bars(400, 3, rng)}, name="bars")
        found = [
            train_dataset(
                build_config({"augment": augment, "train": {"epochs": 20, "seed": seed}}), dataset
            ).test.accuracy
            for augment in ({}, {"shift": 0.3, "unsafe": "ignore"})
        ]
        assert found[1] > found[0] + 0.05


def three_kinds(kind):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 6))
    return {
        "bytes": images.astype(np.uint8),
        "floats": (images / 255).astype(np.float32),
        "negative": (images / 128 - 1).astype(np.float32),
    }[kind]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bytes", "floats", "negative"])
@pytest.mark.parametrize("values", [{"brightness": 0.5}, {"rotate": 30.0, "mixup": 1.0}], ids=str)
def test_the_contact_sheet_shows_what_training_draws(values, kind, monkeypatch):
    dataset = load_data(three_kinds(kind), np.arange(40) % 2)
    given, sheets, original = [], [], DenseEngine._train
    monkeypatch.setattr(
        DenseEngine,
        "_train",
        lambda self, images, *a, **o: given.append(images.copy()) or original(self, images, *a, **o),
    )
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)
    train = {"epochs": 8, "shuffle": False, "batch_size": 40, "seed": 5}
    config = build_config(
        {
            "data": {"valid_fraction": 0.0, "test_fraction": 0.0},
            "augment": {**values, "unsafe": "ignore"},
            "train": train,
        }
    )
    train_dataset(config, dataset)
    rows = prepare(config, dataset).split.train
    monkeypatch.setattr(contact, "draw_sheet", lambda strips, **options: sheets.extend(strips))
    contact.draw_augmented(dataset, rows, Augmentation(**values), per_class=2, seed=5)
    drawn = np.stack(given)  # (batch or epoch, picture)
    drawn = drawn.reshape(8, -1, *dataset.picture_shape)
    for strip in sheets:
        at = next(k for k, row in enumerate(rows) if (dataset.images[row] == strip.pictures[0]).all())
        np.testing.assert_allclose(np.stack(strip.pictures[1:]), drawn[:, at], rtol=1e-6)


DIGITS, WORDS, COUNTS = tuple("0123456789"), ("boot", "shirt"), ("1", "2", "12")
FORBIDDEN = {
    "digits": {"hflip", "vflip", "rot90"},
    "counts": {"zoom", "shift", "crop", "cutout", "mixup", "cutmix"},
    "words": set(),
}


@pytest.mark.parametrize("data", FORBIDDEN)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_leave_out_what_the_data_forbids_and_say_so(preset, data):
    names = {"digits": DIGITS, "counts": COUNTS, "words": WORDS}[data]
    got, notes = build_augmentation(preset, {}, labels=np.arange(len(names)), class_names=names)
    dropped = [name for name in PRESETS[preset] if name in FORBIDDEN[data]]
    assert set(got.active()) == set(PRESETS[preset]) - FORBIDDEN[data] - {"fill"}
    assert got.fill == PRESETS[preset].get("fill", "edge")
    why = {"digits": "the classes are the digits 0 to 9", "counts": "the labels look like counts"}.get(data)
    assert notes == ([f"augment.preset {preset}: {', '.join(dropped)} left out, because {why}"] if dropped else [])


def test_single_strengths_win_over_preset_and_data():
    got, notes = build_augmentation(
        "photo", {"hflip": 1.0, "rotate": 0.0, "fill": "edge"}, labels=np.arange(10), class_names=DIGITS
    )
    assert (got.hflip, got.rotate, got.zoom, got.fill) == (1.0, 0.0, 0.15, "edge")
    assert notes == []


def test_whole_targets_are_counts_and_others_are_not():
    for labels, counts in ((np.array([1.0, 4.0]), True), (np.array([1.0, 4.5]), False), (np.array([-1.0, 2.0]), False)):
        got, notes = build_augmentation("photo", {}, labels=labels, class_names=())
        assert (got.zoom == 0) is counts
        assert bool(notes) is counts


@pytest.mark.parametrize(("name", "value", "limit"), [("hflip", 1.1, "1"), ("rotate", 181.0, "180"), ("shear", -1.0, "60"), ("zoom", 0.91, "0.9"), ("blur", 11.0, "10"), ("mixup", 101.0, "100"), ("noise", float("nan"), "0.9")])  # fmt: skip
def test_strengths_out_of_range_are_refused(name, value, limit):
    with pytest.raises(UsageError) as caught:
        Augmentation(**{name: value})
    assert str(caught.value) == f"augment.{name} must lie in [0, {limit}], got {value}. Use 0 for none."


def test_an_unknown_preset_or_fill_is_refused():
    with pytest.raises(
        UsageError,
        match=r"^augment\.preset must be one of none, light, photo, digits, counting, got 'x'\. Choose one of them\.$",
    ):
        build_augmentation("x", {}, labels=np.arange(2), class_names=WORDS)
    with pytest.raises(
        UsageError, match=r"^augment\.fill must be one of edge, reflect, got 'wrap'\. Choose one of them\.$"
    ):
        Augmentation(fill="wrap")
