"""The scikit-learn estimator: its whole contract, and inside scikit-learn's own tools."""

from inspect import signature

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import clearsight
from clearsight.config.files import complete_key
from clearsight.config.schema import RunConfig


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([clearsight.Classifier(epochs=20)])
def test_scikit_learns_contract(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    check(estimator)


@pytest.mark.long
def test_inside_cross_val_score_pipeline_and_grid_search():
    X, y = load_digits(return_X_y=True)
    assert cross_val_score(clearsight.Classifier(epochs=20), X, y, cv=3).mean() > 0.9
    X, y = X[:600], y[:600]
    assert make_pipeline(StandardScaler(), clearsight.Classifier(epochs=20)).fit(X, y).score(X, y) > 0.98
    search = GridSearchCV(
        clearsight.Classifier(epochs=5), {"lr": [1e-6, 0.003], "hidden": [(16,), (32, 16)]}, cv=2
    ).fit(X, y)
    assert search.best_params_["lr"] == 0.003


def test_labels_come_back_as_they_went_in(pictures):
    images, labels = pictures
    for names in (
        np.array(["cat", "dog", "owl"]),
        np.array([10, -3, 7]),
        np.array([0.5, 1.5, 2.5]).astype(object).astype(str),
    ):
        model = clearsight.Classifier(epochs=60, lr=0.01).fit(images, names[labels])
        assert (model.predict(images) == names[labels]).mean() > 0.95
        assert model.predict_proba(images).shape == (60, 3)


def test_random_state_fixes_the_model(pictures):
    images, labels = pictures
    one, same, other = (clearsight.Classifier(epochs=2, random_state=s).fit(images, labels) for s in (1, 1, 2))
    assert one.bundle_.params.tobytes() == same.bundle_.params.tobytes() != other.bundle_.params.tobytes()


def test_patience_holds_rows_out_and_a_saved_model_predicts_the_same(pictures, tmp_path):
    images, labels = pictures
    model = clearsight.Classifier(epochs=30, patience=3, image_shape=(6, 6, 1)).fit(images, labels)
    model.bundle_.save(tmp_path / "m.clearsight", examples=images[..., None].astype(np.float32))
    loaded = clearsight.load(tmp_path / "m.clearsight")
    np.testing.assert_allclose(loaded.predict_proba(images), model.predict_proba(images), rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("shape", [None, (8, 8, 1)])
def test_a_convolutional_net_takes_pictures_or_rows_with_their_shape(shape):
    pictures, labels = load_digits().images.astype(np.uint8), load_digits().target
    X = pictures.reshape(len(pictures), -1) if shape else pictures
    net = clone(clearsight.Classifier(model="cnn", epochs=2, image_shape=shape)).fit(X, labels)
    assert net.bundle_.net.family == "cnn"
    assert net.score(X, labels) > 0.8
    with pytest.raises(clearsight.ClearsightError, match=r"model cnn must have pictures, got rows of features"):
        clearsight.Classifier(model="cnn").fit(pictures.reshape(len(pictures), -1), labels)
    with pytest.raises(clearsight.ClearsightError, match=r"hidden must go with model mlp or vgg, got \(7,\)"):
        clearsight.Classifier(model="cnn", hidden=(7,)).fit(pictures, labels)


def test_a_model_that_is_no_name_is_refused(pictures):
    with pytest.raises(
        clearsight.ClearsightError, match=r"model must be one of mlp, cnn, .* or timm:NAME, got 3\. See"
    ):
        clearsight.Classifier(model=3, epochs=1).fit(pictures[0].reshape(60, -1), pictures[1])


def test_arguments_are_settings_with_their_defaults_and_meanings():
    config, own = RunConfig(), {"hidden": (128,), "model": "mlp", "epochs": 50, "scale": "standardize"}
    parameters = signature(clearsight.Classifier).parameters
    for name, parameter in parameters.items():
        if name in ("image_shape", "random_state"):
            continue
        key = {"model": "model.family", "augment": "augment.preset"}.get(name) or complete_key(name)
        section, _, field = key.partition(".")
        assert parameter.default == own.get(name, getattr(getattr(config, section), field)), name
        meaning = type(getattr(config, section)).model_fields[field].description
        assert f"{name} ({parameter.default!r}): {meaning}" in clearsight.Classifier.__doc__
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        clearsight.Classifier(learning_rate=0.1)


@pytest.mark.parametrize(
    "choice",
    [{"ema": 0.5}, {"finetune": "last"}, {"augment": "digits"}, {"sampling": "balanced"}, {"engine": "reference"}],
)
def test_an_argument_reaches_the_training(pictures, choice):
    """It changes the model, or is refused as it would be elsewhere."""
    images, labels = pictures[0], np.minimum(pictures[1], 1)

    def train(**options):
        return clearsight.Classifier(**{"epochs": 2, "image_shape": (6, 6, 1), **options}).fit(images, labels)

    if "finetune" in choice:
        with pytest.raises(ValueError, match="finetune must go with pretrained"):
            train(**choice)
        return
    found, plain = train(**choice), train()
    assert found.bundle_.params.tobytes() != plain.bundle_.params.tobytes()
