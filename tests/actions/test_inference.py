"""Evaluation never passes training rows for new ones, matches classes by name, and a bundle is the same after a round trip."""

import numpy as np
import pytest

import clearsight
from clearsight.errors import DataError, UsageError


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A run with random labels whose splits were drawn anew although the file brings its own."""
    folder = tmp_path_factory.mktemp("pooled")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (300, 5, 5)).astype(np.uint8), rng.integers(0, 5, 300)
    path = folder / "pool.npz"
    np.savez(path, x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:])
    return path, clearsight.train(path, pool=True, epochs=60, out=folder / "run", hidden=(64,), lr=0.01)


def test_evaluating_on_the_own_data_uses_the_own_split(pooled):
    path, run = pooled
    assert run.train.accuracy > 0.9
    assert run.test.accuracy < 0.45  # labels are random
    for found in (clearsight.evaluate(run.path), clearsight.evaluate(run.path, path)):
        assert (found.split, found.n, found.accuracy) == ("test", 60, run.test.accuracy)
    with pytest.raises(
        UsageError, match=r"DATA must be new to a model outside its run directory, got the data it was trained on"
    ):
        clearsight.evaluate(run.bundle, path)
    assert clearsight.evaluate(run.bundle, path, split="all").n == 300


def test_a_run_can_be_evaluated_from_any_folder(pooled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clearsight.evaluate(pooled[1].path).n == 60


def test_classes_are_matched_by_name(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (60, 4, 4)).astype(np.uint8),
        np.array(["ant", "bee", "cow"])[np.arange(60) % 3],
    )
    images[labels == "bee"] //= 4
    images[labels == "cow"] //= 16
    run = clearsight.train(images, labels, epochs=80, out=tmp_path / "run", test_fraction=0.0, lr=0.01)
    some = labels != "ant"
    found = clearsight.evaluate(run.bundle, images[some], labels[some])
    assert found.accuracy > 0.9
    assert [c.support for c in found.classes] == [0, 20, 20]
    with pytest.raises(
        DataError, match=r"classes must be among ant, bee, cow, got 'dog' at row 0 of train\. Check the data\."
    ):
        clearsight.evaluate(run.bundle, images, np.where(labels == "ant", "dog", labels))


def test_a_loaded_model_saves_and_predicts_the_same(pooled, tmp_path):
    bundle = pooled[1].bundle
    images = np.random.default_rng(1).integers(0, 256, (7, 5, 5))
    for name in ("copy.clearsight", "folder"):
        bundle.save(tmp_path / name, examples=images)
        again = clearsight.load(tmp_path / name)
        assert again.predict_proba(images).tobytes() == bundle.predict_proba(images).tobytes()
        again.save(tmp_path / f"again-{name}", examples=images)
        assert clearsight.load(tmp_path / f"again-{name}").params.tobytes() == bundle.params.tobytes()


def test_one_row_and_many_rows_get_the_same_answer(pooled):
    images = np.random.default_rng(1).integers(0, 256, (50, 5, 5)).astype(np.uint8)
    many = pooled[1].bundle.predict_proba(images)
    for i in range(50):
        np.testing.assert_allclose(pooled[1].bundle.predict_proba(images[i : i + 1])[0], many[i], rtol=1e-6)


def test_pictures_that_were_trained_on_are_told_when_they_come_back_in_other_data(tmp_path):
    digits = clearsight.load_data("digits")
    run = clearsight.train(digits.images[:600], digits.labels[:600], out=tmp_path / "run", epochs=1)
    told = []
    clearsight.evaluate(run.path, digits.images[600:700], digits.labels[600:700], note=told.append)
    assert told == []
    clearsight.evaluate(run.path, digits.images[:300], digits.labels[:300], note=told.append)
    assert len(told) == 1
    assert told[0].startswith("2")  # of 300, all but the test rows
    assert "of 300 pictures were also used to train or choose the model" in told[0]
