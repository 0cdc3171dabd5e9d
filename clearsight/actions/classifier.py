"""`Classifier`: the pipeline as a scikit-learn estimator, for cross_val_score, Pipeline, GridSearchCV and the like."""

from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from clearsight.bundle.bundle import Bundle
from clearsight.config.files import resolve_config
from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset, build_dataset
from clearsight.pipeline.prepare import train_dataset

_NOT_SETTINGS = ("random_state", "image_shape")
_DENSE = ("hidden", "activation", "bias", "init", "init_std")  # left to other families where they are not said


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network with scikit-learn's interface. Everything is kept in memory; no files are written.

    Args:
        model, pretrained: the network's family, and whether it begins with published weights. Convolutional ones need X as
            pictures, or `image_shape`.
        hidden: units of the hidden layers.
        activation: relu, leaky_relu, sigmoid, tanh, gelu or identity.
        epochs, batch_size, optimizer, lr, momentum, schedule: of the training; `lr=None` takes the optimiser's usual one.
        l1, l2, weight_decay, dropout, label_smoothing, class_weights: regularisation and weights.
        init, init_std, bias: initialiser, its deviation where it has one, and `unit`, `shared` or `none`.
        clip_norm, warmup_epochs: largest norm of the gradient; first epochs in which the rate grows.
        scale: how inputs are scaled, fitted on the training rows.
        valid_fraction, patience: with patience, that share of the rows is held out to stop early and keep the best.
        image_shape: (height, width, channels) of pictures given as flat rows; only for saved models and reports.
        random_state: seed; None is 0, so that the same call gives the same model.

    Attributes:
        classes_: labels in the order of `predict_proba`'s columns.
        n_features_in_: inputs a row.
        bundle_: the model, with `save`.
        loss_curve_: training loss of each epoch.

    X may be (n, features), (n, height, width) or (n, height, width, channels).
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (128,),
        *,
        model: str = "mlp",
        pretrained: bool = False,
        activation: str = "relu",
        epochs: int = 50,
        batch_size: int = 32,
        optimizer: str = "adam",
        lr: float | None = None,
        momentum: float = 0.9,
        schedule: str = "constant",
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: Any = "none",
        init: str = "auto",
        init_std: float = 0.1,
        bias: str = "unit",
        clip_norm: float = 0.0,
        warmup_epochs: float = 0.0,
        scale: str = "standardize",
        valid_fraction: float = 0.1,
        patience: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.model = model
        self.pretrained = pretrained
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.schedule = schedule
        self.l1 = l1
        self.l2 = l2
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.init = init
        self.init_std = init_std
        self.bias = bias
        self.clip_norm = clip_norm
        self.warmup_epochs = warmup_epochs
        self.scale = scale
        self.valid_fraction = valid_fraction
        self.patience = patience
        self.image_shape = image_shape
        self.random_state = random_state

    def _check(self, X: Any, *, reset: bool, y: Any = "no_validation") -> Any:
        """Rows of features, and labels if given, checked as scikit-learn does."""
        if isinstance(X, np.ndarray) and X.ndim in (3, 4):
            X = X.reshape(len(X), -1)
        return validate_data(self, X, y, reset=reset)

    def _config(self) -> RunConfig:
        settings = {k: v for k, v in self.get_params(deep=False).items() if k not in _NOT_SETTINGS}
        if self.model != "mlp":
            usual = signature(type(self)).parameters
            settings = {k: v for k, v in settings.items() if k not in _DENSE or v != usual[k].default}
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
        shape = self.image_shape or (X.shape[1:] if isinstance(X, np.ndarray) and self.model != "mlp" else None)
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
