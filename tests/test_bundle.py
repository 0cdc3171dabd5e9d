"""A trained model by itself: units of pictures, probabilities, sets, far pictures, and what it keeps when it is saved."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import special

from clearsight.bundle import Bundle, load
from clearsight.data.preprocess import Preprocess
from clearsight.errors import DataError, ModelFileError, UsageError
from clearsight.evaluation.outside import remember
from clearsight.models.initialize import initialize
from clearsight.models.mlp import MLP

NAMES = ("ant", "bee", "cat")


def bundle(outputs=3, low=0.0, high=255.0, **options):
    """A net of 16 pixels and 5 hidden units, which was never trained."""
    net = MLP((16, 5, outputs), ("tanh",), "unit", "softmax" if outputs > 1 else "identity")
    scale, offset = np.full(16, 1 / (high - low), np.float32), np.full(16, -low / (high - low), np.float32)
    target = {} if outputs > 1 else {"target_mean": 7.0, "target_std": 3.0}
    preprocess = Preprocess(4, 4, 1, "unit", low, high, scale, offset, **target)
    params = initialize(net, init="xavier", seed=0, dtype=np.float32, bias_init="normal")
    return Bundle(net, params, NAMES if outputs > 1 else (), preprocess, **options)


def pictures(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4)).astype(np.uint8)


def by_hand(model, images):
    (w1, b1), (w2, b2) = model.net.layers(model.params.astype(np.float64))
    hidden = np.tanh((images.reshape(len(images), 16) / 255) @ w1 + b1)
    return hidden, hidden @ w2 + b2


ASKING = ("predict", "predict_proba", "look")


@pytest.mark.parametrize("ask", ASKING)
def test_pictures_in_other_units_are_refused_by_whatever_answers_about_them(ask):
    with pytest.raises(
        DataError, match=r"^pictures must have values in 0\.\.255, as in training, got .* Rescale them\.$"
    ):
        getattr(bundle(), ask)(pictures() / 255)
    with pytest.raises(
        DataError, match=r"^pictures must have values in 0\.\.1, as in training, got .* Rescale them\.$"
    ):
        getattr(bundle(high=1.0), ask)(pictures())
    getattr(bundle(), ask)(pictures())
    getattr(bundle(high=1.0), ask)(pictures() / 255)


@pytest.mark.parametrize("ask", [*ASKING, "logits", "features"])
def test_pictures_of_another_size_are_refused_by_everything(ask):
    with pytest.raises(
        DataError, match=r"^pictures must be 4x4 with 1 channels, as in training, got 5x4x1\. Resize them\.$"
    ):
        getattr(bundle(), ask)(np.zeros((2, 5, 4), np.uint8))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_the_softmax_of_outputs_over_the_temperature(temperature):
    model, images = bundle(temperature=temperature), pictures()
    hidden, outputs = by_hand(model, images)
    np.testing.assert_allclose(model.logits(images), outputs, rtol=1e-5)
    np.testing.assert_allclose(model.features(images), hidden, rtol=1e-5)
    expected = special.softmax(outputs / temperature, axis=1)
    np.testing.assert_allclose(model.predict_proba(images), expected, rtol=1e-5)
    np.testing.assert_allclose(model.look(images)[0], expected, rtol=1e-5)
    assert model.predict_proba(images).dtype == np.float32
    assert model.predict(images).tolist() == [NAMES[k] for k in expected.argmax(axis=1)]


def test_chosen_rows_are_answered_in_their_order():
    model, images, rows = bundle(), pictures(), np.array([4, 0, 4])
    np.testing.assert_array_equal(model.logits(images, rows=rows), model.logits(images[rows]))
    np.testing.assert_array_equal(model.features(images, rows=rows), model.features(images[rows]))


def test_numbers_come_in_the_units_of_their_targets_and_have_no_probabilities():
    model, images = bundle(outputs=1), pictures()
    expected = by_hand(model, images)[1][:, 0] * 3 + 7
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-5)
    np.testing.assert_allclose(model.look(images)[0], expected, rtol=1e-5)
    with pytest.raises(
        UsageError, match=r"^predict_proba must have a classifier, got a regression model\. Use predict\.$"
    ):
        model.predict_proba(images)


def test_a_set_holds_the_classes_whose_score_held_out_rows_reached():
    scores = np.sort(np.random.default_rng(0).random(19)).astype(np.float32)
    model = bundle(scores=scores)
    sets = model.find_sets(np.array([[0.98, 0.01, 0.01], [0.34, 0.33, 0.33]], np.float32), level=0.9)
    assert sets[0] == ["ant"]
    assert sets[1] == list(NAMES)
    for level in (0.0, 1.0, -0.5):
        with pytest.raises(UsageError) as refused:
            model.find_sets(np.ones((1, 3), np.float32) / 3, level=level)
        assert str(refused.value) == f"--sets must lie between 0 and 1, got {level}. For example 0.9."
    with pytest.raises(UsageError) as refused:
        bundle(scores=scores[:8]).find_sets(np.ones((1, 3), np.float32) / 3, level=0.9)
    assert str(refused.value) == (
        "sets of level 0.9 must have 9 or more validation rows, got 8 in training. Lower the level, or train with more "
        "validation rows."
    )


def test_far_pictures_are_those_beyond_the_threshold_of_held_out_ones():
    model = bundle()
    near = pictures(40)
    known = remember(model.features(near[:20]), model.features(near[20:]))
    seen = replace(model, known=known)
    images = np.concatenate([near, 255 * np.indices((4, 4)).sum(axis=0)[None].astype(np.uint8) % 2])
    _, far = seen.look(images)
    np.testing.assert_array_equal(far, known.measure(model.features(images)) > known.threshold)
    assert far[:20].sum() == 0
    assert far[20:40].sum() <= 1
    assert model.look(images)[1] is None
    few = replace(model, known=remember(model.features(near[:20]), model.features(near[20:28])))
    assert few.look(images)[1] is None


@pytest.mark.parametrize("name", ["model.clearsight", "deep/model.clearsight", "folder"])
def test_what_is_saved_is_loaded(tmp_path, name):
    model = bundle(temperature=1.5, data={"name": "d", "fingerprint": "f"}, training={"seed": 3, "epoch": 2})
    near = pictures(40)
    known = remember(model.features(near[:20]), model.features(near[20:]))
    model = replace(model, known=known, scores=np.linspace(0, 1, 9, dtype=np.float32))
    model.save(tmp_path / name, examples=near)
    again = load(tmp_path / name)
    assert again.path == tmp_path / name
    for part in ("net", "class_names", "temperature", "data", "training", "notes"):
        assert getattr(again, part) == getattr(model, part)
    for one, other in (
        (again.params, model.params),
        (again.scores, model.scores),
        (again.known.features, known.features),
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.known.distances, known.distances)
    np.testing.assert_array_equal(again.predict_proba(near), model.predict_proba(near))
    assert again.preprocess.settings() == model.preprocess.settings()


def test_equal_models_are_equal_files_with_three_examples(tmp_path):
    for name in ("a", "b"):
        bundle().save(tmp_path / f"{name}.clearsight", examples=pictures(9))
    assert (tmp_path / "a.clearsight").read_bytes() == (tmp_path / "b.clearsight").read_bytes()
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.clearsight").read_bytes())) as archive:
        assert archive.namelist() == ["model.safetensors", "model.json"]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        raw = archive.read("model.safetensors")
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["selftest.inputs"]["shape"] == [3, 4, 4, 1]
    assert header["selftest.outputs"]["shape"] == [3, 3]
    assert not {"calibration.scores", "known.features"} & set(header)


def test_a_run_directory_and_a_home_are_found(tmp_path, monkeypatch):
    bundle().save(tmp_path / "run" / "model.clearsight", examples=pictures())
    assert load(tmp_path / "run").path == tmp_path / "run" / "model.clearsight"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/run").path == tmp_path / "run" / "model.clearsight"
    for name in ("~nobody-has-this-name/run", "a" * 5000):
        with pytest.raises(
            ModelFileError, match=r"^MODEL must be a path that can be used, got '.{25,80}': .*\. Check it\.$"
        ):
            load(name)


EXTRAS = {
    "scores that fall": {"calibration.scores": [0.5, 0.4]},
    "scores below 0": {"calibration.scores": [-0.1, 0.4]},
    "scores above 1": {"calibration.scores": [0.1, 1.1]},
    "scores in a table": {"calibration.scores": [[0.1], [0.4]]},
    "distances that fall": {"known.distances": [0.5, 0.4]},
    "distances beyond two": {"known.distances": [0.5, 2.1]},
    "no distances": {"known.distances": []},
    "no features": {"known.features": np.zeros((0, 5))},
    "features of another width": {"known.features": np.zeros((2, 4))},
    "features too long": {"known.features": np.full((2, 5), 1.1)},
    "features in a row": {"known.features": np.zeros(5)},
}


@pytest.mark.parametrize("name", EXTRAS)
def test_scores_and_known_pictures_that_cannot_be_are_refused(tmp_path, name):
    from safetensors.numpy import load_file, save_file

    model = bundle(scores=np.array([0.2, 0.4], np.float32))
    model = replace(model, known=remember(model.features(pictures(8)), model.features(pictures(9, seed=1))))
    model.save(tmp_path / "m", examples=pictures())
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors |= {key: np.array(value, np.float32) for key, value in EXTRAS[name].items()}
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(
        ModelFileError, match="must be sorted, of lengths in bounds and belong together, got something else"
    ):
        load(tmp_path / "m")


@pytest.mark.parametrize("change", [2e-5, -2e-5, 1e-3, -1e-3])
def test_the_self_test_allows_rounding_and_nothing_more(tmp_path, change):
    from safetensors.numpy import load_file, save_file

    bundle().save(tmp_path / "m", examples=pictures())
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors["selftest.outputs"] = tensors["selftest.outputs"] + np.float32(change)
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    if abs(change) < 1e-4:
        load(tmp_path / "m")
        return
    with pytest.raises(
        ModelFileError, match=r"must pass its self-test, got outputs that differ by 0\.001\. The file is damaged"
    ):
        load(tmp_path / "m")


@pytest.mark.parametrize("rows", [0, 4])
def test_one_to_three_examples_are_needed(tmp_path, rows):
    from safetensors.numpy import load_file, save_file

    bundle().save(tmp_path / "m", examples=pictures())
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    shown = pictures(rows).reshape(rows, 4, 4, 1)
    tensors |= {"selftest.inputs": shown, "selftest.outputs": np.zeros((rows, 3), np.float32)}
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(
        ModelFileError, match=f"must hold 1 to 3 examples for its self-test, got {rows}. Get the model again"
    ):
        load(tmp_path / "m")


def test_a_fingerprint_changes_with_all_that_decides_an_answer():
    model = bundle()
    assert bundle().fingerprint == model.fingerprint
    assert len(model.fingerprint) == hashlib.sha256().digest_size * 2
    bent = model.params.copy()
    bent[3] += 1e-3
    others = [replace(model, params=bent), replace(model, class_names=("ant", "bee", "dog")), bundle(high=254.0)]
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_picture_files_come_in_the_range_that_the_model_was_trained_on(tmp_path):
    pixels = pictures(1)[0]
    Image.fromarray(pixels).save(tmp_path / "p.png")
    assert (bundle().read_pictures([tmp_path / "p.png"])[0, ..., 0] == pixels).all()
    for low, high in ((0.0, 1.0), (0.0, 16.0), (-1.0, 1.0)):
        found = bundle(low=low, high=high).read_pictures([tmp_path / "p.png"])[0, ..., 0]
        np.testing.assert_allclose(found, low + pixels / 255 * (high - low), rtol=1e-6, atol=1e-6)
        assert found.dtype == np.float32


@pytest.mark.parametrize("name", ["m.clearsight", "m"])
def test_a_model_is_saved_into_folders_that_are_not_there_yet_by_a_path_or_its_name(tmp_path, name):
    for place in (tmp_path / "a" / "b" / name, str(tmp_path / "c" / "d" / name)):
        bundle().save(place, examples=pictures())
        assert load(place).fingerprint == bundle().fingerprint


def test_one_example_is_enough_and_one_weight_that_is_not_finite_is_told(tmp_path):
    bundle().save(tmp_path / "one", examples=pictures(1))
    assert load(tmp_path / "one").notes == ()
    params = bundle().params.copy()
    params[7] = np.nan
    replace(bundle(), params=params).save(tmp_path / "nan", examples=pictures())
    (note,) = load(tmp_path / "nan").notes
    assert "has weights that are not finite; its predictions mean nothing" in note
