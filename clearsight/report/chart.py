"""A line chart in plain text, for terminals. It must not know what is drawn."""

import numpy as np
from numpy.typing import NDArray

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell, by row and column


def render_chart(
    values: NDArray[np.floating], *, width: int = 64, height: int = 10, low: float, high: float, mark: int | None = None
) -> str:
    """Values (n,) at even distances as braille dots, with the ends of the scale at the left.

    Args:
        values: what is not finite, or outside the scale, is left out.
        width, height: in characters. low, high: ends of the scale, low < high.
        mark: place of a value that a line of bars marks.
    """
    cells = np.zeros((height, width), np.int64)
    x = np.linspace(0, 2 * width - 1, 8 * width)
    y = np.interp(x, np.linspace(0, 2 * width - 1, len(values)), values)
    rows = np.rint((high - y) / (high - low) * (4 * height - 1))
    for column, row in zip(np.rint(x).astype(int), rows, strict=True):
        if np.isfinite(row) and 0 <= row < 4 * height:
            cells[int(row) // 4, column // 2] |= _DOTS[int(row) % 4][column % 2]
    at = None if mark is None else round(mark / max(len(values) - 1, 1) * (width - 1))
    lines = []
    for k, line in enumerate(cells):
        text = "".join("│" if not dots and c == at else chr(0x2800 + dots) for c, dots in enumerate(line))
        end = f"{high:.4g}" if k == 0 else f"{low:.4g}" if k == height - 1 else ""
        lines.append(f"{end:>9} ┤{text}")
    return "\n".join(lines)
