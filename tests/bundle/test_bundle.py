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

from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.data.preprocess import Preprocess
from clearsight.errors import DataError, ModelFileError, UsageError
from clearsight.evaluation.novelty import remember
from clearsight.models.convnet import ConvNet
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


ASKING = ("predict", "predict_proba", "predict_and_compare")


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


def test_one_picture_without_a_batch_axis_is_one_answer():
    model, images = bundle(), pictures(4)  # four of 4x4, so that only the number of axes tells one from several
    for one in (images[1], images[1][..., None]):
        np.testing.assert_array_equal(model.predict_proba(one), model.predict_proba(images)[1:2])
    assert model.predict_proba(images).shape == (4, 3)
    rows = replace(model, preprocess=replace(model.preprocess, height=1, width=16))
    np.testing.assert_array_equal(rows.predict(images[1].ravel()), model.predict(images)[1:2])


def test_files_and_arrays_in_one_list_are_refused():
    text = r"^pictures must be files or arrays, got both in one list\. Predict them apart\.$"
    with pytest.raises(DataError, match=text):
        bundle().predict(["a.png", pictures()[0]])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_the_softmax_of_outputs_over_the_temperature(temperature):
    model, images = bundle(temperature=temperature), pictures()
    hidden, outputs = by_hand(model, images)
    np.testing.assert_allclose(model.logits(images), outputs, rtol=1e-5)
    np.testing.assert_allclose(model.features(images), hidden, rtol=1e-5)
    expected = special.softmax(outputs / temperature, axis=1)
    np.testing.assert_allclose(model.predict_proba(images), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict_and_compare(images)[0], expected, rtol=1e-5)
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
    np.testing.assert_allclose(model.predict_and_compare(images)[0], expected, rtol=1e-5)
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
    _, far = seen.predict_and_compare(images)
    np.testing.assert_array_equal(far, known.measure(model.features(images)) > known.threshold)
    assert far[:20].sum() == 0
    assert far[20:40].sum() <= 1
    assert model.predict_and_compare(images)[1] is None
    few = replace(model, known=remember(model.features(near[:20]), model.features(near[20:28])))
    assert few.predict_and_compare(images)[1] is None


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


def bent(tmp_path, model, *, tensors=None, **settings):
    """A saved model with other tensors, and other settings by their dotted names with __ for the dot."""
    from safetensors.numpy import load, save

    model.save(tmp_path / "m", examples=pictures())
    content = load((tmp_path / "m" / "model.safetensors").read_bytes())
    (tmp_path / "m" / "model.safetensors").write_bytes(save(content | (tensors or {})))
    description = json.loads((tmp_path / "m" / "model.json").read_text())
    for key, value in settings.items():
        *path, last = key.split("__")
        place = description
        for name in path:
            place = place[name]
        place[last] = value
    (tmp_path / "m" / "model.json").write_text(json.dumps(description))
    return tmp_path / "m"


@pytest.mark.parametrize("version", [0, 5, -1, True, "4", None, 4.0])
def test_versions_1_to_4_are_read_and_no_other(tmp_path, version):
    for known in (1, 4):
        load(bent(tmp_path, bundle(), version=known))
    with pytest.raises(ModelFileError) as refused:
        load(bent(tmp_path, bundle(), version=version))
    assert f"must have format version 4 or less, got '{version}'. Update clearsight" in str(refused.value)


def test_a_description_says_its_version_and_is_laid_out_to_be_read(tmp_path):
    bundle().save(tmp_path / "m", examples=pictures())
    lines = (tmp_path / "m" / "model.json").read_text().splitlines()
    assert ' "version": 4,' in lines
    assert ' "temperature": 1.0,' in lines
    assert '  "low": 0.0,' in lines  # of its preprocessing, one step further in


def test_a_fingerprint_does_not_depend_on_the_order_of_a_description(monkeypatch):
    wanted, original = bundle().fingerprint, MLP.describe
    monkeypatch.setattr(MLP, "describe", lambda net: dict(reversed(original(net).items())))
    assert list(bundle().net.describe()) != sorted(bundle().net.describe())
    assert bundle().fingerprint == wanted


def test_outputs_are_computed_in_double_precision():
    model, images = bundle(high=256.0), pictures(200)
    found, outputs = model.logits(images), by_hand(model, images.astype(np.float64) * 255 / 256)[1]
    np.testing.assert_array_max_ulp(found, outputs.astype(np.float32), maxulp=1)


@pytest.mark.parametrize("ask", ["logits", "features"])
def test_pictures_of_another_size_are_refused_even_where_none_is_chosen(ask):
    with pytest.raises(DataError, match=r"^pictures must be 4x4 with 1 channels"):
        getattr(bundle(), ask)(np.zeros((2, 5, 4), np.uint8), rows=np.zeros(0, np.int64))


def test_picture_files_are_refused_where_they_cannot_be_what_the_model_takes(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "p.png")
    model = bundle()
    assert model.read_pictures([tmp_path / "p.png"], max_pixels=16).dtype == np.uint8
    for own, message in (
        ({"height": 1, "width": 16}, "must be a row of numbers for this model, got a picture. Pass a .npy array."),
        ({"height": 2, "width": 2, "channels": 4}, "must give 4 channels, got a picture file. Pass a .npy array."),
    ):
        other = replace(model, preprocess=replace(model.preprocess, **own))
        with pytest.raises(DataError) as refused:
            other.read_pictures([tmp_path / "p.png"])
        assert str(refused.value) == f"{tmp_path / 'p.png'} {message}"
    with pytest.raises(DataError, match=r"must have at most 1\.5e-05 megapixels"):
        model.read_pictures([tmp_path / "p.png"], max_pixels=15)
    with pytest.raises(DataError, match=r"must exist, got nothing there\. Check the path"):
        model.read_pictures([tmp_path / "none.png"])
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "c.png")
    colour = replace(model, preprocess=replace(model.preprocess, channels=3))
    assert colour.read_pictures([tmp_path / "c.png"]).shape == (1, 4, 4, 3)


def test_a_path_that_cannot_be_used_is_told_in_words():
    for name, reason in (("a" * 5000, "File name too long"), ("~no-such-user-here/m", "Could not determine home")):
        with pytest.raises(ModelFileError) as refused:
            load(name)
        assert str(refused.value).startswith(f"MODEL must be a path that can be used, got {name[:80]!r}: {reason}")


def test_a_wrong_setting_is_told_with_its_place_and_eighty_letters_of_it(tmp_path):
    with pytest.raises(ModelFileError) as refused:
        load(bent(tmp_path, bundle(), preprocess__scaling="e" * 100))
    assert f"model.json of {tmp_path / 'm'} must be valid at preprocess.scaling (" in str(refused.value)
    assert str(refused.value).endswith(f"got {'e' * 80}. Get the model again.")


DOES_NOT_FIT = {
    "a class too few": (bundle(), {"class_names": ["a", "b"]}, "must be 3 different names, one an output, got"),
    "a class twice": (bundle(), {"class_names": ["a", "b", "a"]}, "must be 3 different names, one an output, got"),
    "a class of numbers": (bundle(outputs=1), {"class_names": ["a"]}, "got output identity for 1 outputs and pixels"),
    "white below black": (bundle(), {"preprocess__low": 256.0}, "softmax for 3 outputs and pixels of 256.0..255.0."),
    "higher pictures": (bundle(), {"preprocess__height": 5}, "the first layer must take 20 pixels, got 16 in"),
}


@pytest.mark.parametrize("name", DOES_NOT_FIT)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, name):
    model, settings, message = DOES_NOT_FIT[name]
    with pytest.raises(ModelFileError) as refused:
        load(bent(tmp_path, model, **settings))
    assert message in str(refused.value)


def test_tensors_are_those_of_the_architecture_in_shape_and_type(tmp_path):
    weight, values = "layers.1.bias", np.zeros(3, np.float32)
    for tensors, message in (
        (
            {weight: values.astype(np.uint8)},
            f"tensor {weight} of {tmp_path / 'm'} must be float32 (3,), got uint8 (3,).",
        ),
        ({weight: values[:2]}, f"tensor {weight} of {tmp_path / 'm'} must be float32 (3,), got float32 (2,)."),
        ({f"z{k}": values for k in range(7)}, "got a difference: ['z0', 'z1', 'z2', 'z3', 'z4']."),
    ):
        with pytest.raises(ModelFileError) as refused:
            load(bent(tmp_path, bundle(), tensors=tensors))
        assert message in str(refused.value)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(
        ModelFileError, match=f"model.safetensors of {tmp_path / 'm'} must start with its header's length"
    ):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("outputs", "changes"), [(1, {}), (3, {"height": 2, "width": 2, "channels": 4}), (3, {"low": 255.0})]
)
def test_models_of_numbers_of_many_channels_and_of_equal_pixels_are_loaded(tmp_path, outputs, changes):
    model = bundle(outputs=outputs)
    model = replace(model, preprocess=replace(model.preprocess, background=(1, 2, 3), **changes))
    size = (6, model.preprocess.height, model.preprocess.width, model.preprocess.channels)
    for _ in range(2):  # the second takes the place of the first
        model.save(tmp_path / "m", examples=pictures().reshape(size))
    again = load(tmp_path / "m")
    assert again.preprocess.settings() == model.preprocess.settings()
    assert again.preprocess.background == (1, 2, 3)
    assert again.fingerprint == model.fingerprint


def test_equal_scores_and_a_single_known_picture_are_sound_and_one_feature_too_long_is_not(tmp_path):
    tensors = {
        "calibration.scores": np.array([0.2, 0.2], np.float32),
        "known.features": np.eye(5, dtype=np.float32)[:1],
        "known.distances": np.array([0.5], np.float32),
    }
    found = load(bent(tmp_path, bundle(), tensors=tensors))
    assert (len(found.scores), len(found.known.features), len(found.known.distances)) == (2, 1, 1)
    with pytest.raises(ModelFileError, match="must be sorted, of lengths in bounds"):
        load(bent(tmp_path, bundle(), tensors=tensors | {"known.features": np.float32([[1.1, 0, 0, 0, 0]])}))


@pytest.mark.long
def test_a_convolutional_net_remembers_what_enters_its_last_layer(tmp_path):
    net = ConvNet("vgg", (4, 4, 1), 3, "softmax", widths=(2,), depths=(1,), hidden=(7, 5), norm="none")
    params = np.random.default_rng(0).normal(0, 0.3, net.num_values).astype(np.float32)
    model = replace(bundle(), net=net, params=params)
    known = remember(model.features(pictures(8)), model.features(pictures(9, seed=1)))
    assert known.features.shape == (8, 5)
    replace(model, known=known).save(tmp_path / "m", examples=pictures())
    found = load(tmp_path / "m")
    np.testing.assert_array_equal(found.known.features, known.features)
    assert found.fingerprint == model.fingerprint
    with pytest.raises(ModelFileError, match="the first layer must take 16 pixels, got 16 in"):
        load(bent(tmp_path, model, preprocess__height=2, preprocess__width=8))


def test_the_self_test_is_as_strict_as_the_largest_output_and_finds_a_single_wrong_one(tmp_path):
    params = bundle().params.copy()
    bundle().net.layers(params)[1][1][0] = 1000
    model = replace(bundle(), params=params)
    outputs = model.logits(pictures()[:3])
    for change, sound in (([0, 0.05, 0], True), ([0.15, 0, 0], True), ([0, 0.15, 0], False), ([0.3, 0, 0], False)):
        told = outputs + np.float32([[0, 0, 0], change, [0, 0, 0]])
        path = bent(tmp_path, model, tensors={"selftest.outputs": told})
        if sound:
            load(path)
            continue
        with pytest.raises(ModelFileError, match=f"must pass its self-test, got outputs that differ by {max(change)}"):
            load(path)


def test_infinite_weights_load_with_a_note_alone(tmp_path):
    params = bundle().params.copy()
    bundle().net.layers(params)[1][1][0] = np.inf
    replace(bundle(), params=params).save(tmp_path / "m", examples=pictures())
    assert len(load(tmp_path / "m").notes) == 1


def test_probabilities_are_plain_unless_a_model_was_calibrated():
    model, images = bundle(), pictures()
    np.testing.assert_allclose(
        model.predict_proba(images), special.softmax(by_hand(model, images)[1], axis=1), rtol=1e-5
    )
