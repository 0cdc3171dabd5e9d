"""How a measured mean stands to a published number: one rule, and the row that shows it. It must not know how runs are made."""

from dataclasses import dataclass
from decimal import Decimal

WIDE = {"accuracy": 0.05, "mae": 1.0}
"""A wider interval than this, in the metric's unit, says too little to reproduce a number."""

RULE = (
    "A published number stands for every number that rounds to it. Reproduced: it touches our 95 % interval, and that interval "
    f"is at most {WIDE['accuracy']:g} wide ({WIDE['mae']:g} for a mean absolute error) or lies within the published range. "
    "Better: our whole interval is better. Not reproduced: our whole interval is worse. Undecided: the interval is too wide, or "
    "there is one run. A mark is a goal of this project and taken exactly: beaten, reached or missed by the same rule."
)
TABLE_HEAD = (
    "| recipe | variant | split | published | mean | 95 % interval | n | difference | verdict | train | s a run |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
_MARK_WORDS = {"better": "beaten", "reproduced": "reached", "not reproduced": "missed"}


@dataclass(frozen=True)
class Published:
    """A published number or range as it was printed, in the unit of the recipe's metric; or a mark, this project's own goal.

    Args:
        low, high: the least and the greatest that the print can stand for. A mark is exact.
    """

    text: str
    low: float
    high: float
    mark: bool = False

    def __str__(self) -> str:
        return f"mark {self.text}" if self.mark else self.text

    def difference(self, mean: float) -> float:
        """`mean` less the printed number, or less the nearer end of the printed range; 0 within the range."""
        ends = [float(part) for part in self.text.split(" to ")]
        return mean - min(max(mean, ends[0]), ends[-1])


def parse_published(text: str, *, mark: bool = False) -> Published:
    """`"0.9779"` or `"0.87 to 0.88"`, whose last digits say how exactly it is known.

    Raises:
        ValueError: it is neither.
    """
    try:
        ends = [Decimal(part) for part in text.split(" to ")]
        halves = [Decimal(5).scaleb(int(end.as_tuple().exponent) - 1) * (not mark) for end in ends]
    except (ArithmeticError, ValueError):
        ends = []
    if len(ends) not in (1, 2) or ends[0] > ends[-1]:
        raise ValueError(
            f'published must be a number or a range such as "0.87 to 0.88", got {text!r}. Correct the recipe.'
        )
    return Published(text, float(ends[0] - halves[0]), float(ends[-1] + halves[-1]), mark)


def find_verdict(published: Published | None, *, low: float | None, high: float | None, metric: str) -> str | None:
    """`reproduced`, `better`, `not reproduced` or `undecided` by `RULE`, of a mark its words for them; None without a number.

    Args:
        low, high: 95 % interval of our mean; None after one run. metric: `accuracy`, or `mae`, of which less is better.
    """
    if published is None:
        return None
    if low is None or high is None:
        return "undecided"
    if low > published.high or high < published.low:
        found = "better" if (low > published.high) == (metric == "accuracy") else "not reproduced"
    else:
        within = published.low <= low and high <= published.high
        found = "reproduced" if within or high - low <= WIDE[metric] else "undecided"
    return _MARK_WORDS.get(found, found) if published.mark else found


def render_row(
    recipe: str,
    variant: str,
    published: Published | None,
    *,
    split: str,
    metric: str,
    mean: float,
    low: float | None,
    high: float | None,
    n: int,
    train: float,
    seconds: float,
    diverged: int = 0,
) -> str:
    """One Markdown row under `TABLE_HEAD`; `train` is the mean on the training rows, `seconds` of training a run."""
    interval = "-" if low is None else f"{low:.4f} to {high:.4f}"
    some = f" ({diverged} of {n} diverged)" if diverged else ""
    difference = "-" if published is None else f"{published.difference(mean):+.4f}"
    verdict = find_verdict(published, low=low, high=high, metric=metric) or "-"
    given = f"| {recipe} | {variant}{some} | {split} | {published or '-'} |"
    return f"{given} {mean:.4f} | {interval} | {n} | {difference} | {verdict} | {train:.4f} | {seconds:.2f} |"
