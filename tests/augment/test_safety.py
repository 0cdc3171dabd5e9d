"""Does a transform change labels? Known answers: planted sets, counted discs, digits, paintings; and no false alarms."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight.augment.presets import Augmentation
from clearsight.augment.safety import (
    LADDER,
    LabelProbes,
    Verdict,
    build_probes,
    judge_augmentation,
    judge_ladder,
    judge_transform,
)  # fmt: skip
from clearsight.config.build import build_config
from clearsight.core.threads import one_blas_thread
from clearsight.data.dataset import build_dataset
from clearsight.data.named.counting import draw_counting
from clearsight.data.read.load import load_data
from clearsight.errors import UsageError
from clearsight.pipeline import safety
from clearsight.pipeline.data import build_split, load_dataset
from clearsight.pipeline.prepare import prepare
from clearsight.pipeline.safety import measure_safety, render_unsafe
from clearsight.report import verdicts as verdicts_module
from clearsight.report.verdicts import draw_verdicts, render_verdicts
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory

pytestmark = pytest.mark.long
LEVELS = {"safe", "doubtful", "unsafe", "unknown"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
    with one_blas_thread():  # so small products wait for nobody
        yield


def planted(kind, n=160, seed=0, side=14):
    """Triangles that point to a side, or crosses and frames; bright on dark noise, somewhere near the middle."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = rng.integers(0, 60, (n, side, side))
    right = np.zeros((9, 9), int)
    for column in range(9):
        half = (8 - column) // 2
        right[4 - half : 5 + half, column] = 1
    frame, cross = np.ones((9, 9), int), np.zeros((9, 9), int)
    frame[2:7, 2:7], cross[3:6], cross[:, 3:6] = 0, 1, 1
    shapes = {
        "left-right": (right[:, ::-1], right),
        "up-down": (right[:, ::-1].T, right.T),
        "symmetric": (frame, cross),
    }[kind]
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(1, side - 9, 2)
        image[y : y + 9, x : x + 9] += 150 * shapes[label]
    return images[..., None].astype(np.uint8), labels


def judge_of(images, labels, names=("left", "right"), *, seed=0, low=0.0, high=255.0):
    return build_probes(images, labels, np.arange(len(images)), class_names=names, low=low, high=high, seed=seed)


def levels(images, judge, transforms, low=0.0, high=255.0):
    found = {}
    for name, strength in transforms.items():
        v = judge_transform(
            judge, images, Augmentation(**{name: strength}), name=name, strength=strength, low=low, high=high
        )
        assert v.level in LEVELS
        numbers = [v.changed, v.sure, v.turned, v.low, v.high]
        assert np.isfinite(numbers).all()
        assert 0 <= v.low <= v.turned + 1e-12
        assert v.turned <= v.high <= 1
        assert v.turned <= v.sure <= v.changed
        found[name] = v.level
    return found


@pytest.mark.parametrize("n", [120, 600])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("kind", "unsafe"), [("left-right", {"hflip"}), ("up-down", {"vflip"}), ("symmetric", set())])
def test_a_mirror_image_is_unsafe_exactly_where_it_is_another_class(kind, unsafe, dtype, n):
    images, labels = planted(kind, n)
    high = 255.0
    if dtype == np.float32:
        images, high = (images / 255).astype(np.float32), 1.0
    found = levels(images, judge_of(images, labels, high=high), {"hflip": 1.0, "vflip": 1.0}, high=high)
    assert found == {name: "unsafe" if name in unsafe else "safe" for name in ("hflip", "vflip")}


def test_a_verdict_names_what_turned_into_what():
    images, labels = planted("left-right")
    judge = judge_of(images, labels)
    v = judge_transform(judge, images, Augmentation(hflip=1.0), name="hflip", strength=1.0, low=0, high=255)
    assert v.turned > 0.9
    assert {v.worst[0], v.worst[1]} == {"left", "right"}
    assert v.worst[2] > 0.9
    assert len(v.examples) == round(v.turned * v.clear)
    for row, answer in v.examples:
        assert answer == ("right", "left")[labels[row]]
    assert v.as_dict().keys() == {
        "name",
        "strength",
        "level",
        "clear",
        "changed",
        "sure",
        "turned",
        "low",
        "high",
        "worst",
        "variant",
        "why",
    }
    assert json.loads(json.dumps(v.as_dict()))["worst"] == list(v.worst)


def test_a_flip_that_is_configured_half_the_time_is_judged_as_if_always():
    images, labels = planted("left-right")
    always, half = (
        judge_augmentation(judge_of(images, labels), images, Augmentation(hflip=p), low=0, high=255)[0]
        for p in (1.0, 0.5)
    )
    assert (half.turned, half.strength) == (always.turned, 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_are_unknown(seed):
    images, _ = planted("left-right", seed=seed)
    judge = judge_of(images, np.random.default_rng(seed).integers(0, 2, 160))
    assert not judge.knows
    assert set(levels(images, judge, {"hflip": 1.0, "rotate": 45.0, "noise": 0.2}).values()) == {"unknown"}


KEPT = {"hflip": 1.0, "vflip": 1.0, "shift": 0.06, "rotate": 10.0}
CUT = {"crop": 0.4, "zoom": 0.3}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(("low", "per_class", "size"), [(1, 60, (96, 64)), (45, 25, (224, 224))], ids=["few", "many"])
def test_counted_discs_may_be_mirrored_and_moved_a_little_but_not_cut(low, per_class, size, seed):
    """Discs lie in the central half: a move by 0.06 loses none. Zoom makes discs of one size cover as much as another number."""
    counts = np.repeat(np.arange(low, low + 5), per_class)
    images = draw_counting(counts, width=size[0], height=size[1], seed=seed)
    judge = judge_of(images, counts - low, tuple(str(k) for k in range(low, low + 5)), seed=seed)
    assert judge.strict
    assert levels(images, judge, KEPT | CUT) == dict.fromkeys(KEPT, "safe") | dict.fromkeys(CUT, "unsafe")


DIGITS = {"hflip": 1.0, "vflip": 1.0, "rot90": 1.0, "rotate": 15.0, "shift": 0.06, "zoom": 0.2, "brightness": 0.2}


@pytest.mark.data
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_digits_may_be_turned_a_little_but_not_mirrored(seed):
    dataset = load_data("mnist")
    rows = build_split(build_config({"data": {"source": "mnist"}}), dataset).train
    judge = build_probes(
        dataset.images, dataset.labels, rows, class_names=dataset.class_names, low=0, high=255, seed=seed
    )
    found = levels(dataset.images, judge, DIGITS)
    assert found == {name: "unsafe" if name in ("hflip", "vflip", "rot90") else "safe" for name in DIGITS}


@pytest.mark.data
def test_paintings_may_be_mirrored():
    folder = Path(os.environ["CLEARSIGHT_DATA"]) / "paintings"
    if not folder.is_dir():
        pytest.skip("no paintings")
    config = build_config(
        {"data": {"source": str(folder)}, "preprocess": {"image_size": 64}, "augment": {"hflip": 0.5}}
    )
    judge, (verdict,) = measure_safety(config, load_dataset(config))
    assert verdict.level == "safe"
    assert judge.knows


def test_the_identity_is_safe_on_random_small_sets():
    """False alarms: strength 0 on twenty sets of any number of classes, size, noise and balance."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, k, size = int(rng.integers(20, 150)), int(rng.integers(2, 6)), rng.integers(2, 20, 2)
        labels = rng.integers(0, k, n)
        base = rng.integers(0, 256, (k, *size, int(rng.choice([1, 3]))))
        images = np.clip(base[labels] + rng.normal(0, rng.uniform(1, 120), (n, *base.shape[1:])), 0, 255).astype(
            np.uint8
        )
        judge = judge_of(images, labels, tuple("abcde"[:k]), seed=seed)
        v = judge_transform(judge, images, Augmentation(), name="none", strength=0.0, low=0, high=255)
        assert v.level == ("safe" if judge.knows else "unknown")
        assert v.turned == v.sure == v.changed == 0


@pytest.mark.parametrize("seeds", [range(9), pytest.param(range(9, 30), marks=pytest.mark.slow)])
def test_weak_noise_raises_no_alarm_on_random_small_sets(seeds):
    """A transform that cannot change labels, on thirty sets that probes can tell: never unsafe."""
    for seed in seeds:
        images, labels = planted(("left-right", "up-down", "symmetric")[seed % 3], 60 + 4 * seed, seed)
        found = levels(
            images, judge_of(images, labels, seed=seed), {"noise": 0.02, "brightness": 0.05, "contrast": 0.05}
        )
        assert "unsafe" not in found.values(), seed


def ladder(images, labels, names, low=0.0, high=255.0):
    judge = judge_of(images, labels, names, low=low, high=high)
    assert isinstance(judge, LabelProbes)
    verdicts = judge_ladder(judge, images, low=low, high=high)
    assert all(np.isfinite([v.changed, v.sure, v.turned, v.low, v.high]).all() for v in verdicts)
    assert all(v.level in LEVELS for v in verdicts)
    assert "nan" not in render_verdicts(judge, verdicts).lower()
    return {v.level for v in verdicts}


ODD = {
    "one-a-class": (lambda rng: rng.integers(0, 256, (3, 8, 8, 1)), 3),
    "two-pictures": (lambda rng: rng.integers(0, 256, (2, 8, 8, 3)), 2),
    "one-picture": (lambda rng: rng.integers(0, 256, (1, 8, 8, 1)), 1),
    "blank": (lambda rng: np.zeros((40, 8, 8, 1)), 2),
    "white": (lambda rng: np.full((40, 8, 8, 3), 255), 2),
    "one-pixel-high": (lambda rng: rng.integers(0, 256, (40, 2, 1, 1)), 2),
    "one-class": (lambda rng: rng.integers(0, 256, (40, 8, 8, 1)), 1),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", ODD)
def test_odd_data_is_unknown_and_no_fault(kind, dtype):
    draw, k = ODD[kind]
    images = draw(np.random.default_rng(0))
    images = images.astype(np.uint8) if dtype == np.uint8 else (images / 255).astype(np.float32)
    labels = np.arange(len(images)) % k
    assert ladder(images, labels, tuple("abc"[:k]), high=255.0 if dtype == np.uint8 else 1.0) == {"unknown"}


@pytest.mark.parametrize("targets", ["few", "many", "one", "ties"])
def test_numbers_to_predict_are_judged_in_ranges(targets):
    images, labels = planted("left-right", 200)
    rng = np.random.default_rng(0)
    numbers = {
        "few": labels + 0.5, "many": labels * 10 + rng.normal(size=200), "one": np.full(200, 2.5),
        "ties": np.where(labels == 0, 0.5, 7 + rng.normal(size=200)),
    }[targets]  # fmt: skip
    found = levels(images, judge_of(images, numbers.astype(np.float32), ()), {"hflip": 1.0, "vflip": 1.0})
    if targets == "few":
        assert found == {"hflip": "unsafe", "vflip": "safe"}
    elif targets == "one":
        assert set(found.values()) == {"unknown"}
    else:
        assert found["vflip"] != "unsafe"


def test_the_ladder_rises_and_holds_every_transform_that_does_not_mix():
    assert set(LADDER) | {"mixup", "cutmix"} == set(Augmentation.__dataclass_fields__) - {"fill"}
    for name, steps in LADDER.items():
        assert list(steps) == sorted(set(steps)), name
        for strength in steps:
            assert Augmentation(**{name: strength}).active() == {name: strength}


def saved(tmp_path, kind="left-right"):
    images, labels = planted(kind)
    np.savez(tmp_path / "d.npz", images=images[..., 0], labels=np.array(["left", "right"])[labels])
    return tmp_path / "d.npz"


def test_training_refuses_what_changes_labels(tmp_path, capsys, call):
    path = saved(tmp_path)
    assert call("train", path, "--augment", "photo", "--epochs", 1, "--root", tmp_path / "runs", "--quiet") == 2
    text = capsys.readouterr().err
    assert text.startswith("error: augment must keep labels, got transforms that change them on d: hflip 0.5: ")
    assert "clear pictures turn into another class, most of all " in text
    assert text.endswith(
        "Set them to 0, choose another preset, or --set augment.unsafe=warn; `clearsight data safety` shows pictures.\n"
    )
    assert text.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_warn_trains_tells_and_keeps_the_verdicts(tmp_path):
    notes = []
    run = clearsight.train(
        saved(tmp_path),
        config={"augment": {"hflip": 0.5, "noise": 0.02, "unsafe": "warn"}},
        epochs=1,
        out=tmp_path / "run",
        note=notes.append,
    )
    assert sum(note.startswith("augmentation is unsafe, hflip 0.5: ") for note in notes) == 1
    found = store.read_json(RunDirectory(run.path).safety)["verdicts"]
    assert [(v["name"], v["strength"]) for v in found] == [("hflip", 0.5), ("noise", 0.02), ("all", None)]
    assert found[0]["level"] == "unsafe"


def test_ignore_measures_nothing(tmp_path, monkeypatch):
    def never(*args, **options):
        raise AssertionError("measured")

    monkeypatch.setattr("clearsight.pipeline.safety.measure_safety", never)
    run = clearsight.train(
        saved(tmp_path), config={"augment": {"hflip": 0.5, "unsafe": "ignore"}}, epochs=1, out=tmp_path / "run"
    )
    assert not RunDirectory(run.path).safety.exists()
    clearsight.train(saved(tmp_path), epochs=1, out=tmp_path / "plain")
    assert not RunDirectory(tmp_path / "plain").safety.exists()


def test_a_safe_augmentation_trains_without_a_word(tmp_path):
    notes = []
    run = clearsight.train(
        saved(tmp_path), config={"augment": {"vflip": 0.5}}, epochs=1, out=tmp_path / "run", note=notes.append
    )
    assert [note for note in notes if "augment" in note] == []
    assert store.read_json(RunDirectory(run.path).safety)["verdicts"][0]["level"] == "safe"


def test_unknown_is_told(tmp_path):
    images, _ = planted("symmetric")
    np.savez(tmp_path / "r.npz", images=images[..., 0], labels=np.random.default_rng(0).integers(0, 2, 160))
    notes = []
    clearsight.train(
        tmp_path / "r.npz", config={"augment": {"hflip": 0.5}}, epochs=1, out=tmp_path / "run", note=notes.append
    )
    (told,) = [note for note in notes if note.startswith("hflip could not be judged: ")]
    assert "clean pictures rightly, no better than always naming the largest class (5" in told
    assert told.endswith(". To judge it, add training pictures.")


def test_data_safety_prints_json_and_draws_a_sheet(tmp_path, capsys, call):
    path, sheet = saved(tmp_path), tmp_path / "sheet.png"
    assert call("data", "safety", path, "--augment", "hflip=0.5,rotate=5", "--sheet", sheet, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"data", "probes", "accuracy", "clear", "judged", "counts", "verdicts", "unknown", "sheet"}
    assert [v["name"] for v in found["verdicts"]] == ["hflip", "rotate", "all"]
    assert found["sheet"] == str(sheet)
    with Image.open(sheet) as picture:
        assert picture.mode == "RGB"
        assert len(set(picture.convert("L").tobytes())) > 20
        red = (np.asarray(picture) == (200, 30, 30)).all(axis=2).sum()
    assert red > 6 * 4 * 60  # six red frames


def test_data_safety_climbs_the_ladder_and_says_up_to_where(tmp_path, capsys, call):
    assert call("data", "safety", saved(tmp_path), "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1] for line in lines[lines.index("") + 2 :]}
    assert table.keys() == set(LADDER) - {"color"}  # grey pictures have none
    assert (table["hflip"], table["vflip"], table["brightness"]) == ("-", "1", "0.4")


@pytest.mark.parametrize("kind", ["bytes", "negative"])
@pytest.mark.parametrize("augmentation", [{"hflip": 0.5}, {"rotate": 20.0}, {"brightness": 0.3}], ids=str)
def test_the_sheet_shows_the_pictures_that_were_judged(augmentation, kind, monkeypatch):
    images, labels = planted("left-right")
    images = images if kind == "bytes" else (images / 128 - 1).astype(np.float32)
    dataset = load_data(images, labels)
    config = build_config({"augment": augmentation})
    judge, verdicts = measure_safety(config, dataset)
    drawn = []
    monkeypatch.setattr(verdicts_module, "draw_sheet", lambda strips, **options: drawn.extend(strips))
    draw_verdicts(dataset, judge, verdicts, fill="edge")
    from clearsight.augment.transforms import augment_rows

    alone = Augmentation(**augmentation).alone(next(iter(augmentation)))
    rows = np.array([row for row, _ in verdicts[0].examples[:6]])
    low, high = (0.0, 255.0) if kind == "bytes" else (float(images.min()), float(images.max()))
    judged = augment_rows(images, rows, augmentation=alone, seed=0, epoch=0, pool=judge.pool, low=low, high=high).images
    np.testing.assert_array_equal(np.stack(drawn[0].pictures[1::2]), judged)
    np.testing.assert_array_equal(np.stack(drawn[0].pictures[::2]), images[rows])
    assert [text.removeprefix("-> ") for text in drawn[0].captions[1::2]] == [
        answer for _, answer in verdicts[0].examples[:6]
    ]


def test_rows_of_features_cannot_be_measured():
    features = load_data(np.random.default_rng(0).integers(0, 9, (40, 6)).astype(np.uint8), np.arange(40) % 2)
    with pytest.raises(UsageError, match=r"^augment must go with pictures, got rows of features\. Leave it out\.$"):
        measure_safety(build_config({}), features)


def test_training_and_its_safety_check_take_the_same_black_and_white(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.25, 0.75, (120, 12, 12)).astype(np.float32)
    images[100] = 0.9  # of a row that may be drawn for validation or test
    dataset = build_dataset({"train": (images, np.arange(120) % 2)}, name="floats")
    config = build_config({"augment": {"preset": "light"}})
    seen = {}

    def spy(*arguments, low, high, **options):
        seen.update(low=low, high=high)
        return build_probes(*arguments, low=low, high=high, **options)

    monkeypatch.setattr(safety, "build_probes", spy)
    measure_safety(config, dataset)
    trained = prepare(config, dataset).preprocess
    assert (seen["low"], seen["high"]) == (trained.low, trained.high) == (0.0, pytest.approx(trained.high))


def test_a_refusal_says_which_turn_changes_labels():
    verdict = Verdict("rot90", 0.5, "unsafe", 80, 0.2, 0.2, 0.14, 0.1, 0.2, ("6", "9", 0.5), (), variant="180")
    assert render_unsafe([verdict]) == [
        "rot90 0.5: 14% of 80 clear pictures turn into another class, most of all 6 into 9 (50%), when turned by 180 degrees"
    ]
    assert render_unsafe([replace(verdict, variant="as drawn")])[0].endswith("most of all 6 into 9 (50%)")
