"""Does a transform change labels? Measured: how often pictures that were clear become pictures of another class.

Probes are trained on clean pictures. A held-out picture is *clear* if all seven members of its probe name its class. After
a transform it has *turned* if all seven agree on one and the same other class, and it lies as near to that class as clean
pictures of it do: not merely confused, as by something never seen, but sure of something else, and rightly so. A 6 upside
down is a 9 to everyone; a mirrored boot may be called a bag, but is unlike any bag. The share of clear pictures that turn,
with its interval, is the verdict. Where labels are counts, being sure is enough: whatever makes another number is wrong.

Several descriptions of pictures are at work (`probe.DESCRIPTIONS`); the best judges, with every other that tells the classes
nearly as well. A picture has turned where one says so and none still knows it. It must not know training or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation, are_counts
from clearsight.augment.probe import DESCRIPTIONS, Floats, describe
from clearsight.augment.randomness import draw_keys, draw_uniforms
from clearsight.augment.transforms import ONE_SIDED, STREAMS, augment_rows, turn_rows
from clearsight.augment.views import FOLDS, View, build_view, majority_of
from clearsight.core.intervals import wilson_interval
from clearsight.core.progress import MeterBuilder, SilentMeter

LEVELS = ("safe", "unknown", "doubtful", "unsafe")
MOST_ROWS = 2400
JUDGED_ROWS = (150, 400)  # of large and of small pictures
UNSAFE_SHARE = 0.08
UNSAFE_CLASS_SHARE = 0.25
DOUBTFUL = {"turned": 0.05, "sure": 0.15, "changed": 0.5}
_TURNS = ("90", "180", "270")
_DRAWS = 8  # of which the strongest is taken
_UPWARDS = 60  # a stream of random numbers that no transform uses
_JUDGED_PIXELS = 400 * 96 * 96
_MERIT = 0.02
_PARTIAL = ("figure", "surface")  # views that leave much out: where they do not tell almost all, they say nothing
_PLAIN = 0.8  # of clean pictures that pixels must tell, or a pretrained network is asked
_LOOKED_ROWS, _LOOKED_JUDGED = 400, 80  # of its pictures: they take milliseconds each
_COMPONENTS = 16
PRETRAINED = "pretrained features"
_ALMOST_ALL = 0.98  # of clean pictures: a view that names fewer is no evidence beside a better one
_MIN_CLEAR = 20
_UNSURE = 0.2  # a share that must be ruled out before a transform is called safe
_MIN_CLASS = 8
_BINS = 8

LADDER: dict[str, tuple[float, ...]] = {
    "hflip": (1.0,), "vflip": (1.0,), "rot90": (1.0,),
    "rotate": (5, 10, 15, 30, 45), "shear": (5, 10, 20, 30), "zoom": (0.05, 0.1, 0.2, 0.3, 0.5),
    "shift": (0.03, 0.06, 0.1, 0.2, 0.3), "crop": (0.06, 0.12, 0.25, 0.4), "brightness": (0.1, 0.2, 0.4),
    "contrast": (0.2, 0.4, 0.8), "color": (0.2, 0.5, 0.9), "blur": (0.5, 1, 2), "noise": (0.05, 0.1, 0.2),
    "cutout": (0.2, 0.35, 0.5),
}  # fmt: skip


Look = Callable[[NDArray[Any]], Floats]
"""Stored pictures (n, H, W, C) to features (n, F)."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a transform did to clear pictures.

    Args:
        name: of the transform, or `all` for all together. strength: as configured; None for `all`.
        level: `safe`, `doubtful`, `unsafe`, or `unknown` where the probes or the pictures are too few to tell.
        clear: how many pictures were clear, the n of all shares.
        changed: share whose majority answer changed. sure: share of which all members named one other class.
        turned: share that turned. low, high: its 95 % interval (Wilson 1927).
        worst: (from class, into class, share of the clear ones of that class) of what turned most, else was sure; or None.
        examples: (row, majority's answer) of pictures that turned if unsafe, changed if doubtful, else of all clear ones;
            those of the worst pair first.
        variant: of the transform, see `vary`. why: where it is unknown, the reason.
    """

    name: str
    strength: float | None
    level: str
    clear: int
    changed: float
    sure: float
    turned: float
    low: float
    high: float
    worst: tuple[str, str, float] | None
    examples: tuple[tuple[int, str], ...]
    variant: str = "as drawn"
    why: str | None = None

    @property
    def manner(self) -> str:
        """The variant as the end of a sentence, with a space before it; empty for pictures as training draws them."""
        return {"as drawn": "", "full": " at full strength"}.get(
            self.variant, f" when turned by {self.variant} degrees"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("name", "strength", "level", "clear", "changed", "sure", "turned", "low", "high", "variant", "why")
        return {key: getattr(self, key) for key in names} | {"worst": list(self.worst) if self.worst else None}


@dataclass(frozen=True, eq=False)
class LabelProbes:
    """Probes on clean pictures, best first.

    Args:
        rows: (n,) judged. classes: (n,) of them. names: of the classes. pool: all training rows.
        chance: share of the largest class. strict: labels are counts, so that being sure is enough.
        look: pictures to what a pretrained network makes of them; None where pixels judge.
        missed: a pretrained network would have been asked, but is not there.
    """

    views: tuple[View, ...]
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    pool: NDArray[np.int64]
    chance: float
    strict: bool
    look: Look | None = None
    missed: bool = False

    def describe(self, view: View, images: NDArray[Any], *, low: float, high: float) -> Floats:
        """The numbers that a view goes by."""
        if view.kind == PRETRAINED:
            assert self.look is not None
            return self.look(images)
        return describe(view.kind, images, low=low, high=high)

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Judged pictures that all members of all probes name rightly, (n,)."""
        return np.asarray(np.all([(view.clean == self.classes).all(axis=0) for view in self.views], axis=0))

    @property
    def blind(self) -> str | None:
        """Why nothing can be judged; None where the best probe is surely better than naming the largest class."""
        best, n, clear = self.views[0].accuracy, len(self.rows), int(self.clear.sum())
        if wilson_interval(round(best * n), n)[0] <= self.chance:
            return (
                f"the probes name {best:.0%} of {n} clean pictures rightly, no better than always naming the largest class "
                f"({self.chance:.0%})"
            )
        return (
            f"the probes are sure of {clear} clean pictures, and {_MIN_CLEAR} are needed"
            if clear < _MIN_CLEAR
            else None
        )

    @property
    def knows(self) -> bool:
        """Whether anything can be judged."""
        return self.blind is None


def _as_classes(labels: NDArray[Any], class_names: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes as they are; numbers by themselves if there are few, else in eight ranges of about equal counts."""
    if class_names:
        return labels, class_names
    values = np.unique(labels)
    if len(values) <= _BINS:
        return np.searchsorted(values, labels), tuple(f"{v:g}" for v in values)
    edges = np.unique(np.quantile(labels, np.arange(1, _BINS) / _BINS))
    ends = zip([values[0], *edges], [*edges, values[-1]], strict=True)
    return np.searchsorted(edges, labels, side="right"), tuple(f"{a:g}..{b:g}" for a, b in ends)


def build_probes(
    images: NDArray[Any], labels: NDArray[Any], rows: NDArray[np.int64], *, class_names: tuple[str, ...], low: float, high: float,
    seed: int = 0, find_look: Callable[[], Look | None] = lambda: None,
) -> LabelProbes:  # fmt: skip
    """Train the probes on clean pictures, three-fold.

    Args:
        images: (N, H, W, C), the data set. labels: (N,) classes or numbers. rows: training rows, ascending; at most 2,400
            are used. low, high: values of black and white.
        find_look: where pixels tell fewer than four fifths of the pictures, gets what a pretrained network makes of
            pictures, if there is one; whichever tells the classes better then judges.
    """
    rng = np.random.default_rng([seed, 0x5AFE])
    classes, names = _as_classes(labels[rows], class_names)
    chosen = np.sort(rng.permutation(len(rows))[:MOST_ROWS])
    chance = float(np.bincount(classes[chosen]).max() / len(chosen))

    def judge_by(features: dict[str, Floats], some: NDArray[np.int64], count: int, look: Look | None) -> LabelProbes:
        fold = rng.permutation(len(some)) % FOLDS
        judged = np.sort(rng.permutation(len(some))[:count])
        own = rows[some]
        views = [
            build_view(kind, numbers, classes[some], fold, judged, len(names), rng)
            for kind, numbers in features.items()
        ]
        fit = [view for view in views if view.kind not in _PARTIAL or view.accuracy >= _ALMOST_ALL]
        best, *others = sorted(fit, key=lambda view: -view.accuracy)
        good = (best, *(view for view in others if view.accuracy >= max(best.accuracy - _MERIT, _ALMOST_ALL)))
        strict = are_counts(labels, class_names)
        return LabelProbes(good, own[judged], classes[some][judged], names, rows, chance, strict, look)

    least, most = JUDGED_ROWS
    count = int(np.clip(_JUDGED_PIXELS // (images.shape[1] * images.shape[2]), least, most))
    described = {kind: describe(kind, images, low=low, high=high, rows=rows[chosen]) for kind in DESCRIPTIONS}
    probes = judge_by(described, chosen, count, None)
    if probes.views[0].accuracy >= _PLAIN or chance == 1:
        return probes
    look = find_look()
    if look is None:
        return replace(probes, missed=True)
    few = np.sort(rng.permutation(chosen)[:_LOOKED_ROWS])
    seen = look(images[rows[few]])
    shorten = _find_components(seen)
    trained = judge_by({PRETRAINED: shorten(seen)}, few, _LOOKED_JUDGED, lambda pictures: shorten(look(pictures)))
    return trained if trained.views[0].accuracy > probes.views[0].accuracy else probes


def _find_components(features: Floats) -> Callable[[Floats], Floats]:
    """What brings features to as many numbers as these pictures bear: their first principal components."""
    mean = features.mean(axis=0)
    _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
    axes = axes[:_COMPONENTS]
    return lambda others: np.asarray((others - mean) @ axes.T, np.float32)


def vary(
    images: NDArray[Any],
    rows: NDArray[np.int64],
    augmentation: Augmentation,
    *,
    variant: str,
    pool: NDArray[np.int64],
    low: float,
    high: float,
) -> NDArray[Any]:
    """Some rows as they are judged.

    Args:
        variant: `as drawn`, as in training's first epoch; `full`, of several draws of the one transform in use the strongest,
            upwards for one half of the rows and downwards for the other; or `90`, `180`, `270`, all turned by so many degrees.
    """
    if variant in _TURNS:
        return np.asarray(turn_rows(images, rows, quarters=_TURNS.index(variant) + 1))
    uses = None
    if variant == "full":
        stream = STREAMS[next(iter(augmentation.active()))]
        tries = (draw_keys(rows, seed=0, epoch=0, uses=np.full(len(rows), use)) for use in range(_DRAWS))
        draws = np.array([draw_uniforms(keys, stream) for keys in tries])
        upwards = draw_uniforms(draw_keys(rows, seed=0, epoch=0), _UPWARDS) < (1.0 if stream in ONE_SIDED else 0.5)
        uses = np.where(upwards, draws.argmax(axis=0), draws.argmin(axis=0))
    varied = augment_rows(
        images, rows, augmentation=augmentation, seed=0, epoch=0, pool=pool, uses=uses, low=low, high=high
    )
    return np.asarray(varied.images)


def judge_transform(
    probes: LabelProbes,
    images: NDArray[Any],
    augmentation: Augmentation,
    *,
    name: str,
    strength: float | None,
    low: float,
    high: float,
) -> Verdict:
    """What an augmentation does to the pictures that the probes find clear.

    Of the three quarter turns the worst counts. A transform of one random strength is refused as well if its strongest draws
    turn a class, as weak draws would hide that; but only where the views name almost all clean pictures rightly.
    """
    active = tuple(augmentation.active())
    variants: tuple[str, ...] = _TURNS if active == ("rot90",) else ("as drawn",)
    if len(active) == 1 and active[0] in STREAMS and probes.views[0].accuracy >= _ALMOST_ALL and not probes.strict:
        variants += ("full",)
    found = []
    for variant in variants:
        varied = vary(images, probes.rows, augmentation, variant=variant, pool=probes.pool, low=low, high=high)
        verdict = _judge_varied(probes, varied, name=name, strength=strength, variant=variant, low=low, high=high)
        if variant != "full" or verdict.level == "unsafe":
            found.append(verdict)
    return max(found, key=lambda v: (LEVELS.index(v.level), v.turned, v.changed))


def _judge_varied(
    probes: LabelProbes,
    varied: NDArray[Any],
    *,
    name: str,
    strength: float | None,
    variant: str,
    low: float,
    high: float,
) -> Verdict:
    """A view may say that a picture has turned, unless another one still knows it as well as before; the others abstain."""
    clear, seen = probes.clear, []
    for view in probes.views:
        features = probes.describe(view, varied, low=low, high=high)
        seen.append(view.answer(features, probes.classes, strict=probes.strict))
    still = np.any([e.still for e in seen], axis=0)
    if probes.strict:  # every view is needed to tell numbers from one another
        still = ~np.all([e.sure for e in seen], axis=0)
    turned = clear & np.any([e.turned for e in seen], axis=0) & ~still
    sure = clear & np.any([e.sure for e in seen], axis=0) & ~still
    answer = majority_of(seen[0].answers, len(probes.names))
    for which in ("sure", "turned"):  # what the best view says that says so
        for e in reversed(seen):
            answer = np.where(getattr(e, which) & ~still & clear, e.answers[0], answer)
    changed = clear & (answer != probes.classes)
    n, hits = int(clear.sum()), int(turned.sum())
    shares = {
        key: int(which.sum()) / max(n, 1) for key, which in (("turned", turned), ("sure", sure), ("changed", changed))
    }
    interval = wilson_interval(hits, n) if n else (0.0, 1.0)
    worst, certain = _find_worst(probes, clear, turned, answer)
    level = "safe"
    why = probes.blind
    if why:
        level = "unknown"
    elif certain or (interval[0] > UNSAFE_SHARE and variant != "full"):
        level = "unsafe"
    elif any(shares[key] > DOUBTFUL[key] for key in DOUBTFUL):
        level = "doubtful"
        worst = worst or _find_worst(probes, clear, sure, answer)[0]
    elif interval[1] > _UNSURE:
        level, why = "unknown", f"of {n} pictures of which the probes are sure, up to {interval[1]:.0%} may turn"
    shown = {"unsafe": turned, "doubtful": changed}.get(level, clear)
    leads = shown & (probes.classes == worst[0]) & (answer == worst[1]) if worst else shown
    order = [*np.flatnonzero(leads), *np.flatnonzero(shown & ~leads)]
    return Verdict(
        name, strength, level, n, shares["changed"], shares["sure"], shares["turned"], *interval,
        None if worst is None else (probes.names[worst[0]], probes.names[worst[1]], worst[2]),
        tuple((int(probes.rows[i]), probes.names[answer[i]]) for i in order), variant, why,
    )  # fmt: skip


def _find_worst(
    probes: LabelProbes, clear: NDArray[np.bool_], turned: NDArray[np.bool_], into: NDArray[np.int64]
) -> tuple[tuple[int, int, float] | None, bool]:
    """The class most often turned into one other, and whether for some class that share is surely above a quarter."""
    best: tuple[int, int, float] | None = None
    certain = False
    for k in np.unique(probes.classes[turned]):
        n = int((clear & (probes.classes == k)).sum())
        counts = np.bincount(into[turned & (probes.classes == k)], minlength=len(probes.names))
        other, hits = int(counts.argmax()), int(counts.max())
        certain |= n >= _MIN_CLASS and wilson_interval(hits, n)[0] > UNSAFE_CLASS_SHARE
        if best is None or hits / n > best[2]:
            best = int(k), other, hits / n
    return best, certain


def judge_augmentation(
    probes: LabelProbes, images: NDArray[Any], augmentation: Augmentation, *, low: float, high: float
) -> list[Verdict]:
    """A verdict on each transform in use at its strength, alone, and on all together. Mixing is left out: it mixes labels too."""
    active = {name: strength for name, strength in augmentation.active().items() if name in LADDER}
    found = [
        judge_transform(probes, images, augmentation.alone(name), name=name, strength=strength, low=low, high=high)
        for name, strength in active.items()
    ]
    if len(active) > 1:
        together = Augmentation(**active, fill=augmentation.fill)
        found.append(judge_transform(probes, images, together, name="all", strength=None, low=low, high=high))
    return found


def judge_ladder(
    probes: LabelProbes, images: NDArray[Any], *, low: float, high: float, fill: str = "edge",
    names: Sequence[str] = tuple(LADDER), meter: MeterBuilder = SilentMeter,
) -> list[Verdict]:  # fmt: skip
    """A verdict on every transform at rising strengths.

    A pretrained network takes its time, so it judges the last strength, and one from the middle if that is not safe.
    """
    useless = ("color",) if images.shape[3] != 3 else ()
    ladder = {name: LADDER[name] for name in names if name not in useless}
    found: list[Verdict] = []

    def judge_step(name: str, strength: float) -> Verdict:
        values: dict[str, Any] = {name: strength, "fill": fill}
        advance(1)
        return judge_transform(probes, images, Augmentation(**values), name=name, strength=strength, low=low, high=high)

    with meter("measuring transforms", sum(map(len, ladder.values())), unit="steps") as advance:
        for name, strengths in ladder.items():
            if probes.look is None:
                found += [judge_step(name, strength) for strength in strengths]
                continue
            last = judge_step(name, strengths[-1])
            if last.level != "safe" and len(strengths) > 1:
                found.append(judge_step(name, strengths[(len(strengths) - 1) // 2]))
            found.append(last)
    return found
