"""Which file is which picture: split, class and name of every row, read from folder names or from a table of labels.

Three layouts are known: `CLASS/picture`, `SPLIT/CLASS/picture`, and any pictures with a `metadata.csv` or `labels.csv`
beside them. It must not know how files are read or decoded.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import normpath

from clearsight.data.read.files import BadFile, Listing, Member, is_hidden
from clearsight.errors import DataError, UsageError

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
_OTHER_SUFFIXES = (
    ".txt",
    ".md",
    ".json",
    ".jsonl",
    ".xml",
    ".csv",
    ".tsv",
    ".yaml",
    ".yml",
    ".html",
    ".log",
    ".py",
    ".ipynb",
)
_TABLES = ("metadata.csv", "labels.csv")
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
_SHOWN = 3


@dataclass
class Layout:
    """What a place holds. `labels` are class names, or numbers as text for regression, one a member."""

    members: list[Member] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)  # (split, class) of folders without a file

    def add(self, member: Member, split: str, label: str) -> None:
        """Take one picture."""
        self.members.append(member)
        self.splits.append(split)
        self.labels.append(label)


def _name_some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(repr(path) for path in paths[:_SHOWN]) + more


def arrange_files(
    listing: Listing,
    *,
    root: str,
    read: Callable[[Member], bytes],
    label_column: str = "auto",
    as_numbers: bool = False,
) -> Layout:
    """Find out the layout of a place.

    Args:
        listing: what it holds.
        root: how messages call the place.
        read: a member's content, for the tables of labels.
        label_column: of a table; `auto` is `label`, or the only other column.
        as_numbers: labels are numbers to predict.

    Raises:
        DataError: no layout fits, or a table is not sound. UsageError: a label column that no table has.
    """
    layout, members, empty = Layout(), listing.members, listing.empty
    hidden = [m.path for m in members if is_hidden(m.path)]
    if hidden:
        layout.notes.append(f"{len(hidden)} hidden or system files were left out: {_name_some(hidden)}")
    unread = [path for path in listing.unread if not is_hidden(path)]
    if unread:
        layout.notes.append(f"{_count_links(unread)} left out; use --follow-links to read them: {_name_some(unread)}")
    if listing.outside:
        layout.notes.append(f"{_count_links(listing.outside)} followed out of {root}: {_name_some(listing.outside)}")
    shown = [m for m in members if not is_hidden(m.path)]
    others = [m for m in shown if m.path.lower().endswith(_OTHER_SUFFIXES)]
    pictures = [m for m in shown if not m.path.lower().endswith(_OTHER_SUFFIXES)]
    telling = pictures + [m for m in others if m.path.split("/")[-1].lower() in _TABLES]
    top = _find_wrapper([m.path for m in telling] + [f"{e}/" for e in empty if e and not is_hidden(e)])
    if top.count("/") > 1 or (top and not root.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"))):
        layout.notes.append(f"all pictures lie in {top}, so the folders in it are taken for the classes or splits")
    tables = [m for m in shown if _is_table(m.path.removeprefix(top))]
    for table in tables:
        rows = _read_table(read(table), f"{root}/{table.path}", label_column, as_numbers)
        if rows is not None:
            _take_table(layout, table.path, top, rows, pictures, root, unread=unread)
            others.remove(table)
    if others:
        layout.notes.append(
            f"{len(others)} files are no pictures and were left out: {_name_some([m.path for m in others])}"
        )
    if layout.members or layout.bad:
        _note_unlisted(layout, pictures)
        return layout
    if label_column != "auto":
        raise UsageError(
            f"label_column must belong to a metadata.csv or labels.csv, got {label_column!r} but no such table in {root}. "
            "Leave it out or add the table."
        )
    useful = {m.path for m in pictures}
    without = {*empty, *(m.path.rpartition("/")[0] for m in members if m.path not in useful)}
    folders = sorted(e for e in without if e and e.startswith(top) and not is_hidden(e))
    _take_folders(layout, pictures, folders, top, root, unread=unread)
    return layout


def _find_wrapper(paths: list[str]) -> str:
    """The folder, with `/` at its end, in which everything lies for no reason, as in `data.zip/data/train/cat/1.jpg`."""
    top = ""
    while paths:
        parts = [path.removeprefix(top).split("/") for path in paths]
        first = parts[0][0]
        if first.lower() in SPLIT_FOLDERS or any(p[0] != first or len(p) < 2 for p in parts):
            return top
        if not any(len(p) > 2 or p[1].lower() in _TABLES for p in parts):  # it holds pictures alone: it is a class
            return top
        top += f"{first}/"
    return top


def _count_links(paths: Sequence[str]) -> str:
    return "1 link was" if len(paths) == 1 else f"{len(paths):,} links were"


def _take_folders(
    layout: Layout, pictures: list[Member], empty: list[str], top: str, root: str, *, unread: Sequence[str]
) -> None:
    paths = [(m, m.path.removeprefix(top).split("/")) for m in pictures]
    first = sorted(
        {parts[0] for _, parts in paths if len(parts) > 1} | {e.removeprefix(top).split("/")[0] for e in empty}
    )
    named = [name for name in first if name.lower() in SPLIT_FOLDERS]
    if named and len(named) < len(first):
        others = [name for name in first if name not in named]
        raise DataError(
            f"{root} must hold folders of splits or folders of classes, got both: {_name_some(named)} beside "
            f"{_name_some(others)}. Move the classes into train/, or rename."
        )
    homes: dict[str, str] = {}
    for name in named:
        split = SPLIT_FOLDERS[name.lower()]
        if split in homes:
            raise DataError(
                f"{root} must have one folder for {split}, got {homes[split]!r} and {name!r}. Put their pictures together."
            )
        homes[split] = name
    depth = 2 if named else 1
    stray = []
    for member, parts in paths:
        if len(parts) <= depth:
            stray.append(member.path)
            continue
        layout.add(member, SPLIT_FOLDERS[parts[0].lower()] if named else "train", parts[depth - 1])
    if not layout.members:
        got, advice = (
            f"{len(stray)} pictures without one" if stray else "no pictures",
            "See the README for the layouts.",
        )
        if unread:
            got, advice = f"{got}; {_count_links(unread)} left out", "Use --follow-links to read them."
        raise DataError(
            f"{root} must hold a folder of pictures a class, IDX files, or a metadata.csv, got {got}. {advice}"
        )
    if stray:
        layout.notes.append(f"{len(stray)} files outside the class folders were left out: {_name_some(stray)}")
    full = set(zip(layout.splits, layout.labels, strict=True))
    for folder in empty:
        parts = folder.removeprefix(top).split("/")
        split = SPLIT_FOLDERS[parts[0].lower()] if named else "train"
        if len(parts) == depth and (split, parts[-1]) not in full:
            layout.empty.append((split, parts[-1]))


def _is_table(path: str) -> bool:
    parts = path.split("/")
    return parts[-1].lower() in _TABLES and (len(parts) == 1 or (len(parts) == 2 and parts[0].lower() in SPLIT_FOLDERS))


def _read_table(content: bytes, what: str, label_column: str, as_numbers: bool) -> list[tuple[str, str, str]] | None:
    """(file name, label, split) of each row of a table of labels; None where it has no column of file names."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{what} must be UTF-8 text, got other bytes. Save it as UTF-8.") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{what} must be CSV, got: {error}. Fix the file.") from None
    if not rows:
        raise DataError(f"{what} must not be empty, got no rows. Fill or remove it.")
    header = [name.strip() for name in rows[0]]
    lower = [name.lower() for name in header]
    names = [name for name in header if name.lower() in _FILE_COLUMNS]
    if not names:
        return None
    column = _find_label_column(header, names[0], label_column, what)
    at, label_at = header.index(names[0]), header.index(column)
    split_at = lower.index("split") if "split" in lower and column.lower() != "split" else None
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"{what} must have {len(header)} fields a row, got {len(row)} in row {number}. Fix the row."
            )
        split = "" if split_at is None else row[split_at].strip().lower()
        if split and split not in SPLIT_FOLDERS:
            raise DataError(f"split must be train, valid or test, got {split!r} in row {number} of {what}. Correct it.")
        label = row[label_at].strip()
        if not label:
            raise DataError(f"{column} must not be empty, got nothing in row {number} of {what}. Fill it in.")
        if as_numbers:
            _check_number(label, f"in column {column}, row {number} of {what}")
        found.append((row[at].strip(), label, SPLIT_FOLDERS.get(split, "")))
    return found


def _check_number(text: str, where: str) -> None:
    try:
        float(text)
    except ValueError:
        raise DataError(f"labels must be numbers for regression, got {text!r} {where}. Correct it.") from None


def _find_label_column(header: list[str], file_column: str, wanted: str, what: str) -> str:
    if wanted != "auto":
        if wanted not in header:
            raise UsageError(
                f"label_column must be one of {', '.join(header)}, got {wanted!r} in {what}. Choose one of them."
            )
        return wanted
    rest = [name for name in header if name != file_column and name.lower() != "split"]
    usual = [name for name in rest if name.lower() in ("label", "class", "target")]
    if len(usual) == 1 or (not usual and len(rest) == 1):
        return (usual or rest)[0]
    raise DataError(
        f"{what} must say which column is the label, got {', '.join(rest) or 'none'}. Set data.label_column (or --target)."
    )


def _take_table(
    layout: Layout,
    table: str,
    top: str,
    rows: list[tuple[str, str, str]],
    pictures: list[Member],
    root: str,
    *,
    unread: Sequence[str],
) -> None:
    """Take the pictures that a table lists; their paths are relative to its own folder."""
    folder, missing = table.rpartition("/")[0], f"must exist, got a name in {table} without a file"
    links, by_path = set(unread), {m.path: m for m in pictures}
    seen = {m.path for m in layout.members}
    for name, label, split in rows:
        path = normpath(f"{folder}/{name}" if folder else name)
        if path in seen:
            raise DataError(f"{root}/{table} must list a file once in all tables, got {path!r} twice. Remove one row.")
        seen.add(path)
        member = by_path.get(path)
        if member is None:
            linked = links.intersection({path, *map(str, PurePosixPath(path).parents)})
            reason = "must be a file, got a link; use --follow-links to read it" if linked else missing
            layout.bad.append(BadFile(path, reason))
            continue
        first = path.removeprefix(top).split("/")[0].lower()
        layout.add(member, split or SPLIT_FOLDERS.get(first, "train"), label)
    if not layout.members:
        advice = "Use --follow-links to read links." if unread else "Check the paths."
        raise DataError(f"{root}/{table} must list pictures that exist, got {len(rows)} names without a file. {advice}")


def _note_unlisted(layout: Layout, pictures: list[Member]) -> None:
    listed = {m.path for m in layout.members}
    unlisted = [m.path for m in pictures if m.path not in listed]
    if unlisted:
        layout.notes.append(
            f"{len(unlisted)} pictures without a row in the table were left out: {_name_some(unlisted)}"
        )
