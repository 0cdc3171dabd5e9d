"""Checkpoints that survive a crash at any instant: written aside, made durable, renamed, verified, and only then pruned.

Order of a save: each file is written and fsynced in a temporary folder, then a manifest with their hashes, then the folder;
the folder is renamed to its final name and its parent fsynced; the file LATEST is replaced; the new checkpoint is read
back; older ones are dropped, the last two stay. It must not know what is in the tensors.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.files import sync_folder, write_durably
from clearsight.errors import RunError

KEEP = 2
_LATEST = "LATEST"
_TENSORS, _META, _MANIFEST = "state.safetensors", "fit.json", "manifest.json"
Tensors = dict[str, NDArray[Any]]


def save_checkpoint(folder: Path, *, step: int, tensors: Tensors, meta: dict[str, Any]) -> Path:
    """Save the state after `step` steps into `folder`, which holds all checkpoints of a run.

    Raises:
        RunError: the disk is full, not writable, or did not give back what was written. Earlier checkpoints are intact.
    """
    from safetensors.numpy import save

    final = folder / f"step-{step:09d}"
    aside = folder / f".writing-{step:09d}-{os.getpid()}"
    files = {
        _TENSORS: save({k: np.ascontiguousarray(v) for k, v in tensors.items()}),
        _META: json.dumps(meta).encode(),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[_MANIFEST] = json.dumps(hashes).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name, content in files.items():
            write_durably(aside / name, content)
        if final.exists():  # the same step was saved before: by the run that this one resumes, or damaged since
            old = folder / f".old-{step:09d}-{os.getpid()}"
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(aside, final)
        sync_folder(folder)
        write_durably(folder / _LATEST, final.name.encode())
        _read(final)
    except (OSError, ValueError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RunError(
            f"checkpoint must be written to {final}, got: {reason}. Free space or change its permissions, then use --resume."
        ) from None
    _prune(folder, final)
    return final


def _prune(folder: Path, newest: Path) -> None:
    kept = [newest, *(p for p in sorted(folder.glob("step-*"), reverse=True) if p != newest)][:KEEP]
    for path in folder.iterdir():
        if path.is_dir() and path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    hashes = json.loads((path / _MANIFEST).read_bytes())
    content = {name: (path / name).read_bytes() for name in (_TENSORS, _META)}
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != hashes.get(name):
            raise ValueError(f"{name} differs from its hash")
    try:
        return load(content[_TENSORS]), json.loads(content[_META])
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def load_checkpoint(folder: Path) -> tuple[Tensors, dict[str, Any], list[str]] | None:
    """The newest whole checkpoint, its metadata, and a note for each damaged one that was passed over; None without any.

    Raises:
        RunError: there are checkpoints, and none is whole.
    """
    if not folder.is_dir():
        return None
    found = sorted(folder.glob("step-*"), reverse=True)
    latest = folder / _LATEST
    if latest.is_file():  # it names the newest one that was fully made; anything later did not get that far
        name = latest.read_text(errors="replace").strip()
        found.sort(key=lambda p: p.name == name, reverse=True)
    notes = []
    if latest.is_file() and name not in [path.name for path in found]:
        notes.append(f"checkpoint {name} is gone; went back to an earlier one")
    for path in found:
        try:
            tensors, meta = _read(path)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            notes.append(f"checkpoint {path.name} is damaged ({error}); went back to an earlier one")
            continue
        return tensors, meta, notes
    if found:
        raise RunError(f"{folder} must hold a whole checkpoint, got {len(found)} damaged ones. Train again.")
    return None
