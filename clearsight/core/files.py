"""Files that after a crash hold either all of the old or all of the new. It must not know what they hold."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash it holds either all of the old or all of the new content."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names of a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
