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
    "Classifier": "clearsight.classifier",
    "ClearsightError": "clearsight.errors",
    "compare": "clearsight.tuning.compare",
    "cross_validate": "clearsight.tuning.folds",
    "evaluate": "clearsight.inference",
    "find_label_errors": "clearsight.tuning.label_errors",
    "find_mistakes": "clearsight.mistakes",
    "load": "clearsight.bundle",
    "load_data": "clearsight.data.load",
    "train": "clearsight.run",
    "tune": "clearsight.tuning.tune",
}

if TYPE_CHECKING:
    from clearsight.bundle import load
    from clearsight.classifier import Classifier
    from clearsight.data.load import load_data
    from clearsight.errors import ClearsightError
    from clearsight.inference import evaluate
    from clearsight.mistakes import find_mistakes
    from clearsight.run import train
    from clearsight.tuning.compare import compare
    from clearsight.tuning.folds import cross_validate
    from clearsight.tuning.label_errors import find_label_errors
    from clearsight.tuning.tune import tune


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clearsight' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
