"""One thing that a check of the data found: the one form of it."""

from dataclasses import dataclass
from typing import Any

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Flaw:
    """One thing found in the data.

    Args:
        level: `error`, `warning` or `note`.
        kind: a fixed word for programs, such as `leakage`.
        message: a sentence with the count and the next action.
        files: the files or rows concerned, as the user knows them; groups of belonging ones are joined by ` = `.
        rows: the same as row numbers, for pictures of them; empty where they are no rows.
    """

    level: str
    kind: str
    message: str
    files: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"level": self.level, "kind": self.kind, "message": self.message, "files": list(self.files)}
