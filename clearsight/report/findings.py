"""The pictures that findings about data are about, as a contact sheet. It must not know how they were found."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clearsight.core.flaws import Flaw
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import find_range
from clearsight.report.sheet import Strip, draw_sheet

_COLORS = {"error": (200, 30, 30), "warning": (200, 120, 0), "note": (110, 119, 129)}
_SHOWN = 20


def draw_findings(dataset: Dataset, findings: Sequence[Flaw]) -> Any:
    """A strip for each finding that has pictures, at most 20 of them; belonging ones stand beside each other."""
    strips = []
    for finding in findings:
        rows = finding.rows[:_SHOWN]
        if rows:
            more = f" ({len(rows)} of {len(finding.rows)} pictures)" if len(finding.rows) > len(rows) else ""
            strips.append(Strip(
                f"{finding.level}: {finding.message.split('. ')[0]}{more}", [dataset.images[row] for row in rows],
                [_name(dataset, row) for row in rows], [_COLORS[finding.level]] * len(rows),
            ))  # fmt: skip
    low, high = find_range(dataset, np.arange(len(dataset)))
    heading = f"{dataset.name}: {len(findings)} findings" if strips else f"{dataset.name}: no picture stands out"
    return draw_sheet(strips, low=low, high=high, heading=heading, columns=10)


def _name(dataset: Dataset, row: int) -> str:
    return dataset.files[row] if dataset.files else dataset.row_name(row).split(" (")[0]
