"""clearsight trains image classifiers and shows why they work, or why they do not.

    import clearsight
    run = clearsight.train("digits", epochs=30)
    print(run.test.accuracy, run.bundle.predict(pictures))

Everything heavy is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "ClearsightError",
    "StopRequest",
    "compare",
    "cross_validate",
    "evaluate",
    "find_label_errors",
    "find_mistakes",
    "load",
    "load_data",
    "train",
    "tune",
]

_HOMES = {
    "Classifier": "clearsight.actions.classifier",
    "ClearsightError": "clearsight.errors",
    "StopRequest": "clearsight.training.stop",
    "compare": "clearsight.actions.compare",
    "cross_validate": "clearsight.actions.cross_validate",
    "evaluate": "clearsight.actions.evaluate",
    "find_label_errors": "clearsight.actions.label_errors",
    "find_mistakes": "clearsight.actions.mistakes",
    "load": "clearsight.bundle.load",
    "load_data": "clearsight.data.read.load",
    "train": "clearsight.actions.train",
    "tune": "clearsight.actions.tune",
}

if TYPE_CHECKING:
    from clearsight.actions.classifier import Classifier
    from clearsight.actions.compare import compare
    from clearsight.actions.cross_validate import cross_validate
    from clearsight.actions.evaluate import evaluate
    from clearsight.actions.label_errors import find_label_errors
    from clearsight.actions.mistakes import find_mistakes
    from clearsight.actions.train import train
    from clearsight.actions.tune import tune
    from clearsight.bundle.load import load
    from clearsight.data.read.load import load_data
    from clearsight.errors import ClearsightError
    from clearsight.training.stop import StopRequest


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clearsight' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
