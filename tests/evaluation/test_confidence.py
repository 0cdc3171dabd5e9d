"""Confidence: the temperature, the calibration error and its interval, conformal sets, abstaining, and pictures from elsewhere."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clearsight
from clearsight.bundle.load import load
from clearsight.bundle.predict import predict_files
from clearsight.core.numerics import softmax
from clearsight.data.dataset import build_dataset
from clearsight.errors import ModelFileError, UsageError
from clearsight.evaluation.calibration import (
    _rest,
    conformal_scores,
    conformal_sets,
    fit_temperature,
    measure_calibration,
    measure_coverage,
)
from clearsight.evaluation.novelty import find_neighbours, normalise, remember

pytestmark = pytest.mark.long


def draw(n, *, temperature, seed, classes=5):
    """Logits of a model whose answers are true at a temperature, and labels drawn so."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, classes))
    return logits, (softmax(logits / temperature).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_the_temperature_that_made_the_labels_is_found_and_makes_confidence_true(temperature):
    logits, labels = draw(20_000, temperature=temperature, seed=0)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    calibrated = measure_calibration(logits, labels, temperature=found)
    assert calibrated.low == 0
    assert calibrated.error < 2 * calibrated.chance
    assert calibrated.before == pytest.approx(measure_calibration(logits, labels).error)
    if temperature != 1:
        assert calibrated.before > 3 * calibrated.error


def test_the_temperature_has_the_least_loss_of_any():
    logits, labels = draw(5000, temperature=1.6, seed=1)

    def loss(t):
        return -np.log(softmax(logits / t)[np.arange(len(labels)), labels]).mean()

    found = fit_temperature(logits, labels)
    assert all(loss(found) <= loss(found * factor) + 1e-4 for factor in (0.8, 0.95, 1.05, 1.2))


@pytest.mark.parametrize("n", [1, 5, 40, 400])
def test_the_temperature_is_that_of_the_posterior(n):
    """Against a search over 20,000 points of the log-likelihood and the log-normal prior of deviation 0.5, written out."""
    logits, labels = draw(n, temperature=2.5, seed=n)
    ts = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    shifted = logits - logits[np.arange(n), labels][:, None]
    loss = np.array([np.logaddexp.reduce(shifted / t, axis=1).sum() for t in ts]) + 0.5 * (np.log(ts) / 0.5) ** 2
    assert fit_temperature(logits.astype(np.float32), labels) == pytest.approx(ts[loss.argmin()], rel=3e-3)


def test_the_temperature_stays_in_its_bounds():
    sure = np.tile([[1e-4, 0.0]], (100_000, 1))
    assert fit_temperature(sure, np.zeros(100_000, np.int64)) == pytest.approx(0.05, rel=0.01)
    wrong = np.tile([[1e4, 0.0]], (100_000, 1))
    assert fit_temperature(wrong, np.arange(100_000) % 2) == pytest.approx(20, rel=0.01)


def test_what_abstaining_brings_is_counted_at_each_confidence():
    confidence = np.array([0.5, 0.59, 0.6, 0.8, 0.95, 0.99, 1.0, 0.2])
    right = np.array([1, 0, 1, 0, 1, 1, 1, 0], bool)
    found = measure_coverage(confidence, right)
    assert [one.threshold for one in found] == [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert [one.n for one in found] == [8, 7, 5, 4, 4, 3, 3, 2]  # a confidence of just that is answered
    assert [one.coverage for one in found] == [n / 8 for n in (8, 7, 5, 4, 4, 3, 3, 2)]
    assert [one.accuracy for one in found] == [5 / 8, 5 / 7, 4 / 5, 3 / 4, 3 / 4, 1, 1, 1]
    none = measure_coverage(np.array([0.4]), np.array([True]))[-1]
    assert (none.n, none.coverage, none.accuracy) == (0, 0, None)


def test_thirty_rows_have_an_interval_and_all_of_it_is_said():
    logits, labels = draw(30, temperature=3, seed=4)
    few, enough = measure_calibration(logits[:29], labels[:29]), measure_calibration(logits, labels, temperature=1.5)
    assert (few.n, few.low, few.high, few.temperature, few.before) == (29, None, None, 1, few.error)
    assert enough.low <= enough.error
    assert enough.before == measure_calibration(logits, labels).error != enough.error
    plain = enough.as_dict()
    assert plain["interval"] == [enough.low, enough.high]
    assert set(plain) == {"n", "error", "interval", "chance", "temperature", "before", "bins", "curve", "fitted_here"}
    assert plain["bins"][0] == {
        "n": enough.bins[0].n,
        "confidence": enough.bins[0].confidence,
        "accuracy": enough.bins[0].accuracy,
    }
    confidence = softmax(logits / 1.5).max(1)
    assert [one["n"] for one in plain["curve"]] == [
        int((confidence >= t).sum()) for t in (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    ]
    for fitted, temperature, wanted in ((True, 1.5, True), (True, 1.0, False), (False, 1.5, False)):
        found = measure_calibration(logits, labels, temperature=temperature, fitted_here=fitted)
        assert (found.fitted_here, found.temperature) == (wanted, temperature)


def test_a_gap_beyond_chance_keeps_its_interval_above_0():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.7, 0.9, 3000)
    off, true = (measure_calibration(*stated(confidence, confidence - gap, rng)) for gap in (0.2, 0.0))
    assert 0.15 < off.low < 0.2 < off.high < 0.25
    assert off.high - off.low == pytest.approx(2 * 1.96 * np.sqrt(0.6 * 0.4 / 3000), rel=0.4)
    assert true.low == 0
    assert true.high < 0.05


def test_scores_are_how_strange_the_truth_looked():
    logits, labels = draw(40, temperature=1, seed=2)
    found = conformal_scores(logits, labels, temperature=2.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.sort(1 - softmax(logits / 2)[np.arange(40), labels]), atol=1e-6)


def test_few_rows_and_no_mistakes_keep_the_temperature_near_one():
    logits, labels = np.eye(2)[[0, 1, 0, 1]] * 5, np.array([0, 1, 0, 1])
    assert 0.3 < fit_temperature(logits, labels) <= 1
    assert fit_temperature(np.full((3, 2), np.nan), labels[:3]) == 1


def test_the_calibration_error_is_that_of_its_definition():
    """Guo et al. 2017, equation 3, row by row: half the bins are too sure, half not sure enough, one edge is hit exactly."""
    rng = np.random.default_rng(3)
    confidence = np.append(rng.uniform(0.5, 1, 399), 0.8)  # 0.8 = 12 / 15 belongs to the bin above it
    logits, labels = stated(confidence, confidence + np.where((confidence * 15).astype(int) % 2, 0.15, -0.15), rng)
    rows = [[] for _ in range(15)]
    for p, right in zip(softmax(logits).max(1), labels == 0, strict=True):
        rows[min(14, int(p * 15))].append((p, right))
    gaps = [np.mean([right for _, right in inside]) - np.mean([p for p, _ in inside]) for inside in rows if inside]
    counts = [len(inside) for inside in rows if inside]
    assert min(gaps) < -0.05
    assert max(gaps) > 0.05
    found = measure_calibration(logits, labels)
    assert found.error == pytest.approx(np.dot(counts, np.abs(gaps)) / 400)
    assert found.error > 3 * abs(np.dot(counts, gaps)) / 400  # gaps of both signs do not cancel
    assert [one.n for one in found.bins] == counts
    assert [one.accuracy - one.confidence for one in found.bins] == pytest.approx(gaps)


def test_chance_is_the_error_that_a_calibrated_model_shows_on_as_many_rows():
    """Against labels drawn anew 2,000 times from the model's own probabilities, bins and all; its own draws spread by 1 %."""
    logits, _ = draw(200, temperature=1, seed=5)
    probabilities, rng = softmax(logits), np.random.default_rng(6)
    errors = []
    for _ in range(2000):
        labels = (probabilities.cumsum(axis=1) > rng.random((200, 1))).argmax(axis=1)
        errors.append(_error_of(probabilities, labels))
    found = measure_calibration(logits, labels)
    assert found.chance == pytest.approx(np.mean(errors), rel=0.04)


def _error_of(probabilities, labels):
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * 15).astype(int), 14)
    return np.abs(np.bincount(place, right - confidence)).sum() / len(labels)


@pytest.mark.parametrize(("temperature", "true"), [(1.0, 0.0), (1.3, 0.0627), (2.0, 0.1775)])
def test_the_interval_of_the_calibration_error_covers_the_true_one(temperature, true):
    """`true` by two million rows; 100 draws of 400 rows may miss it in eleven at most (p < 0.01 at 5 %)."""
    missed = 0
    for seed in range(100):
        found = measure_calibration(*draw(400, temperature=temperature, seed=seed))
        missed += not found.low <= true <= found.high
    assert missed <= 11


def stated(confidence, accuracy, rng):
    """Two-class logits of stated confidences (n,), and labels by which the first class is right as often as `accuracy` says."""
    odds = np.log(confidence / (1 - confidence))
    return np.stack([odds, np.zeros_like(odds)], 1), (rng.random(len(odds)) >= accuracy).astype(np.int64)


@pytest.mark.parametrize(
    ("n", "low", "high", "gap", "true"),
    [
        (100, 0.97, 0.9999, lambda c: 0 * c, 0.0),
        (200, 0.97, 0.971, None, None),
        (2000, 0.55, 0.9999, lambda c: 0.27 * (c > 0.9333), 0.27 * (0.9999 - 0.9333) / 0.4499),
        (400, 0.6, 0.99, lambda c: 0.05 + 0 * c, 0.05),
    ],
    ids=["sure and right to be", "all right", "one bin", "all too sure"],
)
def test_the_interval_covers_where_few_are_wrong_or_one_bin_is_off(n, low, high, gap, true):
    rng, missed = np.random.default_rng(0), 0
    for _ in range(100):
        confidence = rng.uniform(low, high, n)
        accuracy = np.ones(n) if true is None else confidence - gap(confidence)
        found = measure_calibration(*stated(confidence, accuracy, rng))
        missed += not found.low <= (1 - (low + high) / 2 if true is None else true) <= found.high
    assert missed <= 11


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 99))
def test_calibration_of_any_answers_is_finite_and_within_bounds(n, classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)) * rng.choice([0, 1, 1e3]), rng.integers(0, classes, n)
    found = measure_calibration(logits, labels)
    assert 0 <= found.error <= 1
    assert found.curve[0].accuracy == (logits.argmax(axis=1) == labels).mean()
    assert (found.low is None and n < 30) or 0 <= found.low <= found.high
    assert found.curve[0].coverage == 1


def test_what_chance_brings_into_a_bin_is_taken_off_its_gap():
    """40 answers of 40 right at 0.9: a rate of 40.5 / 41 whose variance 0.98780 * 0.01220 / 40 comes off 0.1 squared."""
    assert _rest(np.array([40]), np.array([0.9]), np.array([1.0])) == pytest.approx(
        (0.01 - 0.000301309) ** 0.5, rel=1e-4
    )


def test_who_abstains_more_answers_less():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000)
    curve = measure_coverage(confidence, rng.random(5000) < confidence)
    assert all(a.coverage >= b.coverage for a, b in itertools.pairwise(curve))
    assert all(a.accuracy <= b.accuracy + 0.02 for a, b in itertools.pairwise(curve))
    assert measure_coverage(np.array([0.4]), np.array([True]))[-1].accuracy is None


@pytest.mark.parametrize(("n", "level"), [(200, 0.5), (200, 0.9), (200, 0.99), (19, 0.9), (9, 0.9), (10, 0.85)])
def test_conformal_sets_hold_the_true_class_as_often_as_they_promise_and_hardly_more(n, level):
    """Vovk 2005: with scores that do not tie, coverage over draws of n and one more is k / (n + 1), k = ceil((n + 1) level)."""
    held, inside = [], None
    for seed in range(300):
        logits, labels = draw(n + 60, temperature=2, seed=seed)
        scores = conformal_scores(logits[:n], labels[:n], temperature=1)
        inside = conformal_sets(softmax(logits[n:]), scores, level=level)
        held.append(inside[np.arange(60), labels[n:]].mean())
    spread = np.std(held) / np.sqrt(len(held))
    exact = np.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert exact - 3 * spread <= np.mean(held)
    if n < 100 or level > 0.5:  # else the likeliest class, always in, adds to it
        assert np.mean(held) <= exact + 3 * spread + 0.003
    assert inside[np.arange(60), logits[n:].argmax(1)].all()


@pytest.mark.parametrize(
    ("n", "level", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (20, 0.9, 19), (99, 0.95, 95), (99, 0.55, 55), (100, 0.5, 51)]
)
def test_a_class_is_in_a_set_up_to_the_exact_rank_among_the_held_out_scores(n, level, rank):
    scores = (np.arange(1, n + 1) / (n + 1)).astype(np.float32)
    others = 1 - scores[[rank - 1, min(rank, n - 1)]].astype(np.float64)
    probabilities = np.stack(
        [[p, 2.0] for p in others]
    )  # the second is the likeliest, so the first is judged by its rank
    inside = conformal_sets(probabilities, scores, level=level)
    assert inside[:, 1].all()
    assert inside[:, 0].tolist() == [True, rank == n]


def test_a_level_beyond_what_few_rows_can_promise_has_no_sets():
    assert conformal_sets(np.full((1, 2), 0.5), np.linspace(0, 1, 98), level=0.99) is None
    assert conformal_sets(np.full((1, 2), 0.5), np.linspace(0, 1, 99), level=0.99) is not None


def test_neighbours_are_those_of_a_search_one_by_one():
    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(30, 7)), normalise(rng.normal(size=(50, 7)))
    places, distances = find_neighbours(features, known, count=4)
    unit = normalise(features)
    for k in range(30):
        exact = np.linalg.norm(known - unit[k], axis=1)
        assert set(places[k]) == set(np.argsort(exact)[:4])
        assert distances[k] == pytest.approx(np.sort(exact)[:4], abs=1e-3)


def test_held_out_pictures_are_rarely_far():
    rng = np.random.default_rng(0)
    found = remember(rng.normal(size=(500, 8)) + 3, rng.normal(size=(1000, 8)) + 3)
    assert found.level == 0.99
    assert (found.measure(rng.normal(size=(4000, 8)) + 3) > found.threshold).mean() == pytest.approx(0.01, abs=0.008)
    assert (found.measure(rng.normal(size=(100, 8)) - 3) > found.threshold).mean() == 1


@pytest.mark.parametrize("n", [4, 16, 99, 150])
def test_few_held_out_pictures_raise_as_many_false_alarms_as_their_level_says(n):
    rng, alarms, levels = np.random.default_rng(0), [], set()
    for _ in range(300):
        found = remember(rng.normal(size=(200, 4)) + 2, rng.normal(size=(n, 4)) + 2)
        levels.add(found.level)
        alarms.append((found.measure(rng.normal(size=(50, 4)) + 2) > found.threshold).mean())
    (level,) = levels
    assert level == pytest.approx(min(0.99, n / (n + 1)))
    assert np.mean(alarms) <= 1 - level + 0.012


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    return clearsight.train("digits", epochs=15, hidden=(32,), root=root)


def test_a_trained_model_carries_its_confidence_in_its_file(digits):
    again = load(digits.path)
    assert again.temperature == digits.bundle.temperature != 1
    assert (again.scores == digits.bundle.scores).all()
    assert len(again.scores) == digits.valid.n
    assert (again.known.features == digits.bundle.known.features).all()
    data = clearsight.load_data("digits")
    assert again.predict_and_compare(data.images)[1].mean() < 0.05
    noise = np.random.default_rng(0).integers(0, 17, (50, 8, 8)).astype(np.uint8)
    assert again.predict_and_compare(noise)[1].mean() > 0.5
    plain = clearsight.train("digits", epochs=1, root=digits.path.parent, calibrate=False).bundle
    assert (plain.temperature, len(plain.scores), plain.known) == (1.0, 0, None)
    assert plain.predict_and_compare(noise)[1] is None


def test_predict_divides_by_the_temperature_in_the_file(digits, tmp_path, call, capsys):
    """The bundle and the command line alike; answers stay those of the outputs."""
    images = clearsight.load_data("digits").images[:20]
    bundle = load(digits.path)
    wanted = softmax(bundle.logits(images).astype(np.float64) / bundle.temperature)
    assert np.abs(wanted - softmax(bundle.logits(images))).max() > 1e-3
    np.testing.assert_allclose(bundle.predict_proba(images), wanted, atol=1e-6)
    np.testing.assert_allclose(bundle.predict_and_compare(images)[0], wanted, atol=1e-6)
    np.save(tmp_path / "some.npy", images)
    assert call("predict", digits.path, tmp_path / "some.npy", "--json") == 0
    found = [list(one["probabilities"].values()) for one in json.loads(capsys.readouterr().out)["predictions"]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_calibrating_changes_no_answer_and_lessens_the_loss(digits):
    again = clearsight.train("digits", epochs=15, hidden=(32,), calibrate=False, root=digits.path.parent)
    assert again.test.accuracy == digits.test.accuracy
    assert (again.bundle.params == digits.bundle.params).all()
    assert digits.valid.loss < again.valid.loss


@pytest.mark.parametrize(
    "change",
    [
        {"calibration.scores": np.array([0.5, 0.1], np.float32)},
        {"known.distances": np.zeros(0, np.float32)},
        {"known.features": np.zeros(5, np.float32)},
        {"known.features": np.zeros((5, 3), np.float32)},
        {"known.features": np.full((5, 32), np.nan, np.float32)},
        {"known.distances": np.array([0.1, np.nan], np.float32)},
        {"known.distances": np.array([-1.0], np.float32)},
        {"calibration.scores": np.array([0.5, 5], np.float32)},
        {"calibration.scores": np.zeros((2, 2), np.float32)},
    ],
)
def test_a_file_whose_held_out_rows_are_damaged_is_refused(digits, tmp_path, change):
    from safetensors.numpy import load_file, save_file

    digits.bundle.save(tmp_path / "model", examples=clearsight.load_data("digits").images[:3])
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file(tensors | change, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelFileError, match="must be sorted, of lengths in bounds and belong together"):
        load(tmp_path / "model")


def test_predict_abstains_names_sets_and_warns_of_far_pictures(digits, tmp_path, call, capsys):
    data = clearsight.load_data("digits")
    Image.fromarray((data.images[0].reshape(8, 8) * (255 / 16)).astype(np.uint8)).save(tmp_path / "digit.png")
    noise = np.random.default_rng(1).integers(0, 256, (8, 8)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    files = [tmp_path / "digit.png", tmp_path / "noise.png"]
    assert call("predict", digits.path, *files, "--abstain-below", "0.999999", "--sets", "0.9", "--json") == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["label"] for one in found] == [None, None]
    assert [one["far"] for one in found] == [False, True]
    assert all(max(one["probabilities"], key=one["probabilities"].get) in one["set"] for one in found)
    assert call("predict", digits.path, *files, "--abstain-below", "0.999999") == 0
    text = capsys.readouterr()
    assert f"{files[0]}  no answer: " in text.out
    assert f"note: {files[1]} is unlike the pictures that the model was trained on" in text.err
    assert call("predict", digits.path, *files, "--abstain-below", "1.5") == 2
    assert "--abstain-below must lie between 0 and 1, got 1.5" in capsys.readouterr().err
    assert call("predict", digits.path, *files, "--sets", "1") == 2
    assert "--sets must lie between 0 and 1, got 1.0" in capsys.readouterr().err
    some = dataclasses.replace(digits.bundle, scores=digits.bundle.scores[:8])
    with pytest.raises(UsageError, match=r"sets of level 0\.9 must have 9 or more validation rows, got 8 in training"):
        some.find_sets(np.full((1, 10), 0.1), level=0.9)
    assert call("predict", digits.path, *files, "--sets", "0.999") == 2
    assert "sets of level 0.999 must have 999 or more validation rows, got 144 in training" in capsys.readouterr().err


def test_numbers_have_no_confidence(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.random((60, 4, 4)).astype(np.float32)
    run = clearsight.train(pixels, pixels.mean((1, 2)), task="regression", epochs=2, root=tmp_path)
    assert run.test.calibration is None
    assert run.bundle.known is not None
    with pytest.raises(UsageError, match="--abstain-below and --sets must have a classifier, got a regression model"):
        predict_files(run.bundle, [], sets=0.9)


@pytest.mark.report
def test_evaluate_and_the_report_tell_of_confidence(digits, call, capsys):
    assert call("evaluate", digits.path) == 0
    assert "Average gap 0.0" in capsys.readouterr().out
    assert call("evaluate", digits.path, "--json") == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert found["temperature"] == digits.bundle.temperature
    assert found["n"] == 359
    assert found["fitted_here"] is False
    assert call("evaluate", digits.path, "--split", "valid") == 0
    assert "fitted on these rows, so the gap on others is likely larger" in capsys.readouterr().out
    assert "Confidence (test)" in (digits.path / "report.html").read_text()


def test_with_few_held_out_pictures_none_is_called_far(tmp_path, call, capsys, pictures):
    images, labels = pictures
    options = {"train_per_class": 10, "valid_per_class": 2, "test_per_class": 2}
    run = clearsight.train(images, labels, epochs=1, hidden=(8,), root=tmp_path, **options)
    assert not run.bundle.known.can_tell
    assert (
        clearsight.load(run.path).predict_and_compare(run.bundle.preprocess.check_shape(images[..., None]))[1] is None
    )
    np.save(tmp_path / "some.npy", images[:2])
    assert call("predict", run.path, tmp_path / "some.npy") == 0
    assert (
        "unusual pictures cannot be recognised: only 6 pictures were held out in training, too few for that"
        in capsys.readouterr().err
    )


def test_calibration_says_where_its_rows_set_the_temperature(tmp_path):
    def measured(run):
        found = json.loads((run.path / "metrics.json").read_text())
        return next(found[split]["calibration"]["fitted_here"] for split in ("test", "valid") if found[split])

    settings = {"epochs": 3, "hidden": (16,), "root": tmp_path}
    alone = clearsight.train("digits", test_fraction=0.0, **settings)
    assert measured(alone) is True
    assert measured(clearsight.train("digits", test_fraction=0.0, calibrate=False, **settings)) is False
    assert measured(clearsight.train("digits", **settings)) is False
    data = clearsight.load_data("digits")
    part = {"train": (data.images[:500], data.labels[:500]), "valid": (data.images[500:900], data.labels[500:900])}
    other = build_dataset(part, name="other", class_names=data.class_names)
    assert clearsight.evaluate(alone.path, other, split="valid").calibration.fitted_here is False
    assert clearsight.evaluate(alone.path, split="valid").calibration.fitted_here is True
