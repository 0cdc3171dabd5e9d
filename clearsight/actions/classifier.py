"""`Classifier`: the pipeline as a scikit-learn estimator, for cross_val_score, Pipeline, GridSearchCV and the like."""

import functools
from inspect import Parameter, Signature
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from clearsight.bundle.bundle import Bundle
from clearsight.config.families import is_dense
from clearsight.config.resolve import resolve_config
from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset, build_dataset
from clearsight.pipeline.train_in_memory import train_dataset

# Settings that are arguments, by section; their names, defaults and meanings are those of `RunConfig`.
_SETTINGS = {
    "model": (
        "hidden", "family", "pretrained", "weights", "finetune", "widths", "depths", "activation", "bias", "init", "init_std",
    ),
    "train": (
        "epochs", "batch_size", "optimizer", "lr", "schedule", "warmup_epochs", "momentum", "loss", "l1", "l2", "weight_decay",
        "dropout", "label_smoothing", "class_weights", "clip_norm", "sampling", "ema", "lookahead", "patience", "monitor",
        "engine", "device", "precision",
    ),
    "augment": ("preset",),
    "preprocess": ("scale",),
    "data": ("valid_fraction",),
}  # fmt: skip
_NAMES = {"family": "model", "preset": "augment"}  # of arguments that are not called like their setting
_OWN = {"hidden": (128,), "model": "mlp", "epochs": 50, "scale": "standardize"}  # defaults that suit rows of features
_BESIDE = {"image_shape": None, "random_state": None}  # arguments that are no settings


def _list_arguments() -> dict[str, tuple[Any, str]]:
    """Default and meaning of each argument that is a setting."""
    found = {}
    for section, names in _SETTINGS.items():
        fields = RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        for name in names:
            argument = _NAMES.get(name, name)
            found[argument] = (_OWN.get(argument, fields[name].default), str(fields[name].description))
    return found


_ARGUMENTS = _list_arguments()
_Class = TypeVar("_Class", bound=type)


def _take_settings(cls: _Class) -> _Class:
    """Give a class the arguments of `_ARGUMENTS` and their description, as scikit-learn wants them: each an attribute."""
    defaults = {name: default for name, (default, _) in _ARGUMENTS.items()} | _BESIDE
    first, *others = defaults.items()
    signature = Signature([
        Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
        Parameter(first[0], Parameter.POSITIONAL_OR_KEYWORD, default=first[1]),
        *(Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in others),
    ])  # fmt: skip

    @functools.wraps(cls.__init__)  # type: ignore[misc]
    def initialise(self: Any, *positional: Any, **named: Any) -> None:
        bound = signature.bind(self, *positional, **named)
        for name, default in defaults.items():
            setattr(self, name, bound.arguments.get(name, default))

    initialise.__signature__ = signature  # type: ignore[attr-defined]
    cls.__init__ = initialise  # type: ignore[misc]
    lines = [f"        {name} ({default!r}): {text}" for name, (default, text) in _ARGUMENTS.items()]
    cls.__doc__ = str(cls.__doc__).replace("        <settings>", "\n".join(lines))
    return cls


@_take_settings
class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network with scikit-learn's interface. Everything is kept in memory; no files are written.

    With `patience`, `valid_fraction` of the rows is held out to stop early and keep the best; without, none is.
    Convolutional networks need X as pictures, or `image_shape`.

    Args:
        <settings>
        image_shape (None): (height, width, channels) of pictures given as flat rows.
        random_state (None): seed; None is 0, so that the same call gives the same model.

    Attributes:
        classes_: labels in the order of `predict_proba`'s columns.
        n_features_in_: inputs a row.
        bundle_: the model, with `save`.
        loss_curve_: training loss of each epoch.

    X may be (n, features), (n, height, width) or (n, height, width, channels).
    """

    def _check(self, X: Any, *, reset: bool, y: Any = "no_validation") -> Any:
        """Rows of features, and labels if given, checked as scikit-learn does."""
        if isinstance(X, np.ndarray) and X.ndim in (3, 4):
            X = X.reshape(len(X), -1)
        return validate_data(self, X, y, reset=reset)

    def _config(self) -> RunConfig:
        given = {name: value for name, value in self.get_params(deep=False).items() if name in _ARGUMENTS}
        settings = {name: value for name, value in given.items() if value is not _ARGUMENTS[name][0] or name in _OWN}
        if not is_dense(self.model) and self.hidden == _OWN["hidden"]:
            settings.pop("hidden", None)
        if self.patience is None:
            settings["valid_fraction"] = 0.0
        if self.random_state is None or isinstance(self.random_state, int | np.integer):
            seed = 0 if self.random_state is None else int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31))
        return resolve_config(None, {**settings, "test_fraction": 0.0, "seed": seed})

    def fit(self, X: Any, y: Any) -> "Classifier":
        """Train on X, y; any hashable labels.

        Raises:
            ValueError: X or y is not sound, or a choice is wrong. DivergedError: the loss became NaN.
        """
        shape = self.image_shape or (X.shape[1:] if isinstance(X, np.ndarray) and not is_dense(self.model) else None)
        X, y = self._check(X, y=y, reset=True)
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold two or more classes, got one class: {self.classes_[0]!r}. Add rows of another."
            )
        run = train_dataset(self._config(), self._dataset(X, indices, shape))
        self.bundle_: Bundle = run.bundle
        self.loss_curve_ = run.history.column("train_loss")
        return self

    def _dataset(self, X: NDArray[Any], indices: NDArray[np.int64], shape: tuple[int, ...] | None) -> Dataset:
        pictures = X.reshape(len(X), *shape) if shape else X
        names = [str(name) for name in self.classes_]
        if len(set(names)) < len(names):
            names = [repr(name) for name in self.classes_]
        return build_dataset({"train": (pictures, indices)}, name="arrays", class_names=names)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Class probabilities (n, classes), columns as in `classes_`."""
        check_is_fitted(self)
        X = self._check(X, reset=False)
        proba = self.bundle_.predict_proba(X).astype(np.float64)
        return np.asarray(proba / proba.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (n,), of the kind that `fit` was given."""
        check_is_fitted(self)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])
