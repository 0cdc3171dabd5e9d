"""compare: models on one test set, recipes over paired runs; what is refused, what is said, how looks are counted."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight.actions.compare import compare
from clearsight.errors import UsageError
from clearsight.evaluation.comparison import compare_answers, compare_runs
from clearsight.report.comparisons import draw_comparison, render_answers, render_runs
from clearsight.runs.test_uses import add_test_use, count_models

pytestmark = pytest.mark.long
FAST = {"epochs": 2, "hidden": (12,)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    a = clearsight.train("digits", **FAST, root=root, out=root / "a")
    b = clearsight.train("digits", epochs=8, hidden=(32,), root=root, out=root / "b")
    return root, a, b


def test_models_are_compared_on_their_common_test_rows(runs):
    root, a, b = runs
    found = compare(root / "b", root / "a", root=root)
    assert found.split == "test"
    assert found.answers.n == a.test.n == b.test.n
    assert found.answers.difference == pytest.approx(b.test.accuracy - a.test.accuracy)
    assert found.answers.shown
    assert found.answers.low > 0


def write_digits(folder, *, count=200):
    data = clearsight.load_data("digits")
    for k in range(count):
        place = folder / data.class_names[data.labels[k]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[k, :, :, 0] * 15).save(place / f"{k}.png")
    return folder


def test_models_are_counted_once_for_each_test_split(runs, tmp_path):
    clearsight.train("digits", **FAST, root=tmp_path)
    clearsight.train("digits", **FAST, root=tmp_path, seed=1)
    clearsight.train("digits", **FAST, root=tmp_path, split_seed=3)  # another test split
    root, a, _ = runs
    assert compare(a.bundle, root / "b", data="digits", split="all", root=tmp_path).looks is None
    assert compare(root / "a", root / "b", root=tmp_path).looks == 3  # a is the first of these again, to the last bit
    assert compare(root / "a", root / "b", root=tmp_path).looks == 3
    clearsight.evaluate(root / "a")
    clearsight.find_mistakes(root / "a", count=1, saliency="none", neighbours=0)
    assert compare(root / "b", root / "a", root=root).looks == 2
    assert compare(root / "a", root / "b", split="valid", root=tmp_path).looks is None


def test_test_pictures_read_at_another_size_are_the_same_test_pictures(tmp_path):
    folder = write_digits(tmp_path / "pictures")
    for size in (8, 12):
        clearsight.train(folder, **FAST, image_size=size, root=tmp_path, out=tmp_path / f"{size}")
    assert compare(tmp_path / "8", tmp_path / "12", root=tmp_path).looks == 2
    for size in (8, 16):  # arrays are resized, too
        clearsight.train("digits", **FAST, image_size=size, root=tmp_path, out=tmp_path / f"array{size}")
    assert compare(tmp_path / "array8", tmp_path / "array16", root=tmp_path).looks == 2


def test_looks_of_earlier_versions_are_read_and_their_models_told_by_path(runs, tmp_path):
    root, a, _ = runs
    data = clearsight.load_data("digits")
    rows = clearsight.pipeline.data.build_split(a.config, data).test
    old = hashlib.sha256(data.fingerprint.encode() + rows.tobytes()).hexdigest()[:16]
    names = [(f"{root / 'a'}", 1), (f"evaluate {root / 'a'}/model.clearsight", 1), (f"compare {root / 'a'} other", 2)]
    lines = [
        json.dumps({"time": "t", "test": old, "models": n, "by": by}) for by, n in [*names, ("compare base x", 20)]
    ]
    wrong = [
        "{",
        "[]",
        '{"test": 3}',
        json.dumps({"test": old, "by": "z"}),
        json.dumps({"test": "00", "by": "z", "models": 1}),
    ]
    (tmp_path / "test-looks.jsonl").write_text("\n".join(lines + wrong) + "\n")
    assert count_models(tmp_path, data, rows) == 22  # a, other, and twenty runs
    add_test_use(tmp_path, data, rows, model=a.bundle.fingerprint, by=str(root / "a"))
    assert count_models(tmp_path, data, rows) == 22


def test_a_model_that_was_saved_loaded_and_moved_is_the_same_model(runs, tmp_path):
    root, a, _ = runs
    moved = shutil.copy(root / "a" / "model.clearsight", tmp_path / "moved.clearsight")
    assert clearsight.load(moved).fingerprint == a.bundle.fingerprint != clearsight.load(root / "b").fingerprint


def test_other_test_rows_and_other_data_are_refused(runs, tmp_path):
    root, _, _ = runs
    clearsight.train("digits", **FAST, split_seed=5, out=tmp_path / "other", root=tmp_path)
    with pytest.raises(
        UsageError, match="models must be compared on one test set, got 359 rows of digits and 359 of digits"
    ):
        compare(root / "a", tmp_path / "other", root=root)
    images = np.random.default_rng(0).integers(0, 16, (90, 8, 8)).astype(np.uint8)
    clearsight.train(images, np.arange(90) % 10, **FAST, out=tmp_path / "arrays", root=tmp_path)
    with pytest.raises(UsageError, match="DATA must be given for a model"):
        compare(root / "a", tmp_path / "arrays", root=root)


def test_recipes_are_run_in_pairs_of_equal_seeds_and_rows(tmp_path):
    found = compare("base", "train.optimizer=sgd", data="digits", **FAST, root=tmp_path)
    assert [len(values) for values in found.values] == [10, 10]
    assert found.redrawn
    for k in (0, 7):
        own = clearsight.train("digits", **FAST, seed=k, folds=10, fold_seed=k, root=tmp_path)
        assert found.values[0][k] == own.valid.accuracy
    ((_, _, one),) = found.pairs
    assert one.differences == pytest.approx([x - y for x, y in zip(*found.values, strict=True)])
    assert one.ratio == pytest.approx(144 / 1294, rel=0.01)


def test_a_recipe_is_no_better_than_itself_under_another_name(tmp_path):
    found = compare("train.lr=0.001", "train.lr=1e-3", data="digits", **FAST, root=tmp_path)
    assert found.pairs[0][2].p_value == 1.0
    assert not found.pairs[0][2].shown


def test_several_recipes_are_corrected_for_how_many_are_compared(tmp_path):
    two = compare("base", "train.lr=0.0001", data="digits", **FAST, root=tmp_path)
    three = compare("base", "train.lr=0.0001", {"train": {"lr": 0.002}}, data="digits", **FAST, root=tmp_path)
    assert three.names[2] == "train.lr=0.002"
    assert len(three.pairs) == 3
    assert three.pairs[0][2].differences == two.pairs[0][2].differences
    one, corrected = two.pairs[0][2], three.pairs[0][2]
    assert corrected.p_value == pytest.approx(min(1, 3 * one.p_value))
    assert corrected.high - corrected.low > one.high - one.low


def test_errors_of_numbers_count_as_better_where_they_are_smaller(tmp_path):
    images = np.random.default_rng(0).random((300, 6)).astype(np.float32)
    options = {"task": "regression", "hidden": (16,), "epochs": 15, "root": tmp_path}
    found = compare("train.lr=0.01", "train.lr=0.0001", data=images, labels=images.sum(1), **options)
    assert found.metric == "mae"
    one = found.pairs[0][2]
    assert one.difference == pytest.approx(np.mean(found.values[0]) - np.mean(found.values[1]))
    assert one.difference < 0
    assert one.shown
    assert one.wins > 7
    text = render_runs(one, a="A", b="B", metric="mae", redrawn=True, better=-1)
    assert text.startswith("A is better than B: -0.")


@pytest.mark.parametrize(
    ("sides", "options", "text"),
    [
        (("base",), {}, "compare must have two sides or more, got 1"),
        (("base", "base"), {}, "recipes must differ, got one twice among base, base"),
        (
            ("base", "train.lr=0.1"),
            {"pairs": 9},
            r"--pairs must lie in 10 to 10,000, got 9\. Fewer show next to nothing",
        ),
        (("base", "train.lr=0.1"), {"pairs": 10**20}, "--pairs must lie in 10 to 10,000"),
        (("train.seed=1", "train.seed=2"), {}, "recipes must have equal seeds, which pairs share"),
        (("base", " "), {}, "a side must be a model or a recipe, got nothing"),
        ((None, None), {}, "a side must be a model or a recipe, got None"),
        (("base", {"lr": 0.1}), {}, "the settings must hold known keys, got 'lr'. Did you mean train.lr"),
        (("base", "train.lr=0.1"), {"pairs": "10"}, "--pairs must be a whole number of 1 or more, got '10'"),
        (("base", "train.lr=0.1"), {"split": "all"}, "--split must be valid or test for recipes, got 'all'"),
        (("base", "runs/none"), {}, "compare must have models alone or recipes alone, got both"),
        (("base", "train.rate=0.1"), {}, "unknown|known keys, got 'train.rate'"),
        (("base", "no-such.toml"), {}, "config must be a readable file, got no-such.toml"),
        (
            ("base", "train.lr=0.1"),
            {"metric": "mae"},
            "--metric must be one of accuracy, loss for this data, got 'mae'",
        ),
        (("base", "train.lr=0.1"), {"metric": "f1"}, "--metric must be one of accuracy, loss for this data, got 'f1'"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, sides, options, text):
    with pytest.raises(UsageError, match=text):
        compare(*sides, data="digits", **FAST, root=tmp_path, **options)


def test_recipes_of_the_usual_data_need_no_name_of_it(tmp_path):
    found = compare({"train": {"epochs": 1}}, {"train": {"epochs": 1, "lr": 0.01}}, root=tmp_path, split="valid")
    assert found.redrawn


def test_rows_that_cannot_be_drawn_anew_are_said_to_be_the_same(tmp_path):
    options = {"train_per_class": 100, "valid_per_class": 20, "epochs": 1, "root": tmp_path}
    found = compare("base", "train.lr=0.0001", data="digits", **options)
    assert not found.redrawn
    assert found.pairs[0][2].ratio == 0
    text = render_runs(found.pairs[0][2], a="A", b="B", metric="accuracy", redrawn=False)
    assert "This holds for these rows; others may differ." in text


def test_models_take_no_settings(runs):
    root, _, _ = runs
    for options in ({"epochs": 3}, {"pairs": 20}, {"executor": "threads"}):
        with pytest.raises(UsageError, match="models must be compared two at a time and as they are"):
            compare(root / "a", root / "b", **options)


def test_compare_on_the_command_line(runs, tmp_path, call, capsys):
    root, _, _ = runs
    assert call("compare", root / "a", root / "b", "--root", root, "--plot", tmp_path / "m.svg") == 0
    text = capsys.readouterr().out
    assert "B is better than A on this test set by" in text
    assert "2 models have been evaluated on this test split. The more there are, the less" in text
    assert (tmp_path / "m.svg").read_text().startswith("<svg")
    flags = ["--data", "digits", "--epochs", "1", "--hidden", "8", "--root", tmp_path, "--quiet"]
    assert call("compare", "base", "train.lr=0.0001", "train.lr=0.01 train.l2=0.001", *flags) == 0
    text = capsys.readouterr().out
    assert "10 runs each, evaluated on validation rows that are drawn again for each pair; means of accuracy:" in text
    assert "A is better than B" in text
    assert "p and intervals are corrected for 3 comparisons (Bonferroni)" in text
    assert call("compare", "base", "train.lr=0.0001", *flags, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "recipes"
    assert found["comparisons"][0]["n"] == 10
    assert found["comparisons"][0]["shown"] is True
    assert call("compare", root / "a", "base", *flags) == 2
    assert call("compare", "base", "train.lr=0.1", "--plot", tmp_path / "no" / "p.svg", *flags) == 2


def test_sentences_claim_no_more_than_was_shown():
    rng = np.random.default_rng(0)
    base = rng.normal(0.9, 0.01, 12)
    swing = 0.01 * (-1) ** np.arange(12)
    words = {"a": "A", "b": "B", "metric": "accuracy", "redrawn": False}
    better = render_runs(compare_runs(base + 0.01 + rng.normal(0, 0.002, 12), base), **words)
    assert re.match(r"A is better than B: \+[01]\.\d\d points \(95 % interval \+", better)
    worse = render_runs(compare_runs(base, base + 0.01 + rng.normal(0, 0.002, 12)), **words)
    assert re.match(r"B is better than A: \+[01]\.\d\d points \(95 % interval \+", worse)
    luck = render_runs(compare_runs(base + 0.002 + swing, base), **words)
    assert luck.startswith("No difference shown: A minus B is")
    assert "pairs are needed. Run new ones and compare them alone: " in luck
    hopeless = render_runs(compare_runs(base + 0.0005 + swing, base, ratio=0.25), **words | {"redrawn": True})
    assert "No number of runs on this data would settle" in hopeless
    assert "come out alike in all 12 pairs" in render_runs(compare_runs(base, base), **words)
    assert "which do not vary: no interval can be given" in render_runs(
        compare_runs(np.full(10, 0.5), np.full(10, 0.25)), **words
    )


def test_sentences_about_models_warn_where_little_is_known():
    alike = render_answers(compare_answers(np.ones(50, bool), np.ones(50, bool)))
    assert alike == "No difference shown: both answer alike on every row (n = 50), so their accuracies are equal here."
    a, b = np.ones(50, bool), np.ones(50, bool)
    b[:3] = False
    few = render_answers(compare_answers(a, b))
    assert "No difference shown" in few
    assert "They disagree on 3 rows only: too few for the interval to be trusted." in few
    assert "other seeds may turn it round" in few


def test_pictures_hold_each_side_and_each_difference():
    svg = draw_comparison(
        ["A: base", "B: train.lr=0.1"],
        [[0.9, 0.91], [0.8, 0.82]],
        [("A minus B", 0.09, 0.05, 0.13, True)],
        metric="accuracy",
    )
    assert "A: base" in svg
    assert "A minus B" in svg
    assert "difference, points (95 % interval)" in svg
