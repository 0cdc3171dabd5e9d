"""How every action that trains opens a directory for itself."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clearsight.config.files import render_toml
from clearsight.config.schema import RunConfig
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.record import RunStatus


@contextmanager
def open_directory(
    config: RunConfig,
    *,
    data: str,
    kind: str,
    out: str | Path | None,
    root: str | Path,
    record: str,
    about: dict[str, Any],
) -> Iterator[Path]:
    """Make a directory and hold it, with its configuration and a first record.

    If what follows fails while the record still says that the run is being prepared, nothing is left of it.

    Args:
        config: is written as TOML.
        data, kind: name it, where `out` does not.
        out, root: the directory, or the one below which it is made.
        record: the name of its record. about: what that holds at first.

    Raises:
        UsageError: `out` holds something already. RunError: the place cannot be written.
    """
    existed, root_existed = out is not None and Path(out).exists(), Path(root).exists()
    path = store.create_run(Path(root), data=data, model=kind, out=Path(out) if out else None)
    with store.lock_run(path):
        try:
            store.write_text(RunDirectory(path).config, render_toml(config))
            store.write_json(path / record, about)  # the last: a folder without it may be used again
            yield path
        except BaseException:
            if not (path / record).is_file() or store.read_json(path / record).get("status") == RunStatus.PREPARING:
                store.clear_run(path, keep=existed)
                if not root_existed:
                    with suppress(OSError):  # another run is there by now
                        Path(root).rmdir()
            raise
