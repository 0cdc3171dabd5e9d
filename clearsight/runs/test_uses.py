"""How many models were judged on each set of test pictures: the more, the luckier the best of them."""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.bundle.archive import RUN_MODEL
from clearsight.data.dataset import Dataset
from clearsight.errors import RunError

LOOKS = "test-looks.jsonl"  # beside the runs


def add_test_use(root: Path, dataset: Dataset, rows: NDArray[np.int64], *, model: str, by: str) -> None:
    """Note that someone saw how a model does on a test split, so that it can be said how many models that were.

    Args:
        rows: (n,) of the test split. model: fingerprint of the model; one that was noted before is not noted again.

    Raises:
        RunError: the folder of runs is not writable.
    """
    test = _name_pictures(dataset, rows)
    if any(look.get("test") == test and look.get("model") == model for look in _read_looks(root)):
        return
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "test": test, "model": model, "by": by})
    try:
        with (root / LOOKS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunError(f"{root / LOOKS} must be writable, got: {error.strerror}. Check its permissions.") from None


def _name_rows(fingerprint: str, rows: NDArray[np.int64]) -> str:
    """The same as earlier versions named it: by decoded pixels and places of rows."""
    return hashlib.sha256(fingerprint.encode() + rows.tobytes()).hexdigest()[:16]


def count_models(root: Path, dataset: Dataset, rows: NDArray[np.int64]) -> int:
    """How many different models were evaluated on these test pictures, as far as `root` knows; damaged lines are left out.

    Lines of earlier versions name no model. There, a model is told by its path, and each run of a recipe counts.
    """
    looks = _read_looks(root)
    names = {_name_pictures(dataset, rows), _name_rows(dataset.fingerprint, rows)}
    paths = {_find_paths(look["by"])[-1]: look["model"] for look in looks if isinstance(look.get("model"), str)}
    models: set[str] = set()
    for look in looks:
        if look["test"] not in names:
            continue
        if isinstance(look.get("model"), str):
            models.add(look["model"])
        elif isinstance(look.get("models"), int):
            found = _find_paths(look["by"])
            one_each = len(found) == look["models"]
            models |= {paths.get(path, path) for path in found} if one_each else _number(look["by"], look["models"])
    return len(models)


def _number(name: str, count: int) -> set[str]:
    return {f"{name} {k}" for k in range(count)}


def _find_paths(by: str) -> list[str]:
    """The models that a look names: `RUN`, `evaluate RUN/model.clearsight`, `mistakes RUN`, `compare RUN RUN`."""
    words = by.split(" ")
    told = words[1:] if words[0] in ("evaluate", "mistakes", "compare") and len(words) > 1 else words
    return [word.removesuffix(f"/{RUN_MODEL}") for word in told]


def _read_looks(root: Path) -> list[dict[str, Any]]:
    """The sound lines of the file of looks."""
    try:
        lines = (root / LOOKS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    looks = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            look = json.loads(line)
            if isinstance(look, dict) and isinstance(look.get("test"), str) and isinstance(look.get("by"), str):
                looks.append(look)
    return looks


def _name_pictures(dataset: Dataset, rows: NDArray[np.int64]) -> str:
    """A test split in a word: its pictures as they came, in any order, at whatever size they are read."""
    return hashlib.sha256(np.sort(dataset.row_hashes[rows]).tobytes()).hexdigest()[:16]
