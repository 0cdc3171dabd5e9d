"""Numbers that tell a healthy training from an ill one, each a pure function of a `Case`; None where it cannot be known.

Rules compare them with limits, and a bank of healthy trainings says how unusual a value is: see `bank`.
"""

from collections.abc import Callable

import numpy as np

from clearsight.diagnose.case import Case
from clearsight.engines.probe import LayerProbe, Probe

LIMITS = {"sigmoid": 4.0, "tanh": 2.0}  # of |z|, beyond which the slope is under a fourteenth of the steepest
_RELU = ("relu", "leaky_relu", "gelu")
_TINY = 1e-30


def measure_input(case: Case) -> float | None:
    """Root mean square of what enters the network; 0.3 to 1 for scaled pictures."""
    if case.first is None or not case.first.layers:
        return None
    entering = case.first.layers[0]
    return float(np.hypot(entering.x_mean, entering.x_std))


def measure_first_loss(case: Case) -> float | None:
    """Loss before the first step, in units of the blind loss: 1 for a network that knows nothing and claims nothing."""
    return case.first.loss / case.blind_loss if case.first and case.blind_loss else None


def measure_signal(case: Case, probe: Probe | None = None) -> float | None:
    """The smallest spread from picture to picture that a layer gives, as a share of the deviation of the inputs."""
    probe = probe or case.first
    found = _spreads(case, probe)
    size = probe.layers[0].x_std if probe and probe.layers else 0.0
    return min(found) / size if len(found) > 1 and size > 0 else None


def measure_growth(case: Case) -> float | None:
    """The largest such spread, as a multiple of the first layer's."""
    found = _spreads(case, case.first)
    return max(found[1:]) / found[0] if len(found) > 1 and found[0] > 0 else None


def _spreads(case: Case, probe: Probe | None) -> list[float]:
    layers = case.layers(probe) if probe else ()
    return [layer.spread for layer in layers if np.isfinite(layer.spread)]


def measure_way_back(case: Case, probe: Probe | None = None) -> float | None:
    """Gradient of the first layer over that of the last but one, each as a share of its weights: 1 where it arrives whole."""
    probe = probe or case.first
    layers = case.layers(probe)[:-1] if probe else ()  # the last one is next to the loss
    if len(layers) < 2 or not (layers[0].gradient and layers[-1].gradient):
        return None
    return (layers[0].gradient / layers[0].weight) / (layers[-1].gradient / layers[-1].weight)


def measure_first_rank(case: Case) -> float | None:
    """Effective rank of what the first layer gives, where it has four units or more: 1 if all say the same."""
    layers = case.layers(case.first) if case.first else ()
    return layers[0].rank if layers and layers[0].units >= 4 else None


def measure_saturation(case: Case, probe: Probe | None = None) -> float | None:
    """The largest share of z on the flat ends of a sigmoid or tanh, over hidden layers."""
    probe = probe or case.first
    if probe is None or not case.choices.dense:
        return None
    pairs = zip(case.choices.activations, probe.layers[:-1], strict=False)
    shares = [_share_beyond(layer, LIMITS[name]) for name, layer in pairs if name in LIMITS]
    return max(shares, default=None)


def _share_beyond(layer: LayerProbe, limit: float) -> float:
    """Share of |z| above a limit, by the histogram."""
    if layer.low is None or layer.high is None or not sum(layer.counts):
        return 1.0
    edges = np.linspace(layer.low, max(layer.high, layer.low + _TINY), len(layer.counts) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    counts = np.array(layer.counts)
    return float(counts[np.abs(middles) > limit].sum() / counts.sum())


def measure_silence(case: Case, probe: Probe | None = None) -> float | None:
    """The largest share of hidden units of the ReLU family that are 0 for every picture of the probe."""
    probe = probe or case.last
    if probe is None or len(probe.layers) < 2:
        return None
    if case.choices.dense:
        pairs = zip(case.choices.activations, probe.layers[1:], strict=False)
        return max((layer.silent for name, layer in pairs if name in _RELU), default=None)
    return max(layer.silent for layer in probe.layers[1:])


def measure_update(case: Case) -> float | None:
    """Size of a step as a share of the weights it moves: the median over layers, of the median over the training's probes."""
    found = []
    for _, probe in case.probes[: max(2, len(case.probes) * 3 // 4)]:
        shares = [layer.update for layer in probe.layers if layer.update is not None and np.isfinite(layer.update)]
        if shares:
            found.append(float(np.median(shares)))
    return float(np.median(found)) if found else None


def measure_leap(case: Case) -> float | None:
    """The largest step of the first 16 as a share of the weights that it moves, over layers."""
    early = [probe for done, probe in case.probes if done <= 16]
    return max((one.update for probe in early for one in probe.layers if one.update is not None), default=None)


def measure_gain(case: Case) -> float | None:
    """The largest ratio of a layer's weights at the end to its weights at the start."""
    return max(_compare_weights(case), default=None)


def measure_shrinkage(case: Case) -> float | None:
    """The smallest such ratio."""
    return min(_compare_weights(case), default=None)


def _compare_weights(case: Case) -> list[float]:
    """The ratio of each layer whose weights are numbers, and not all 0 at the start."""
    if case.first is None or case.last is None:
        return []
    pairs = zip(case.first.layers, case.last.layers, strict=False)
    return [last.weight / first.weight for first, last in pairs if first.weight > 0 and np.isfinite(last.weight)]


def measure_jump(case: Case) -> float | None:
    """The highest mean loss of a stretch of steps after the first, over the larger of the first loss and the blind one."""
    losses = case.losses[np.isfinite(case.losses)]
    width = max(3, min(len(losses) // 20, case.steps_per_epoch // 5))
    if len(losses) < 2 * width or not case.blind_loss:
        return None
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    return float(means[1:].max() / max(losses[0], case.blind_loss))


def measure_rise(case: Case) -> float | None:
    """How much higher than the best epoch before it a later epoch's training loss was, in units of the blind loss."""
    losses = np.array([row["train_loss"] for row in case.rows], np.float64)
    losses = losses[np.isfinite(losses)]
    if len(losses) < 2 or not case.blind_loss:
        return None
    return float((losses - np.minimum.accumulate(losses)).max() / case.blind_loss)


def measure_late_fall(case: Case) -> float | None:
    """How much the training loss fell over the last quarter of the steps, as a share of where it was before them."""
    losses = case.losses[np.isfinite(case.losses)]
    quarter = len(losses) // 4
    if quarter < 4:
        return None
    before, last = losses[-2 * quarter : -quarter].mean(), losses[-quarter:].mean()
    return float(1 - last / before) if before > 0 else None


def measure_collapse(case: Case) -> float | None:
    """Share of the answers on training rows that the class answered most gets beyond its own share of the rows."""
    if case.train is None:
        return None
    counts = case.train.confusion
    answered, true = counts.sum(axis=0) / counts.sum(), counts.sum(axis=1) / counts.sum()
    most = int(answered.argmax())
    return float(answered[most] - true[most])


def measure_gap(case: Case) -> float | None:
    """Accuracy on training rows less that on held-out ones."""
    if case.train is None or case.held_out is None:
        return None
    return case.train.accuracy - case.held_out[1].accuracy


def measure_valid_rise(case: Case) -> float | None:
    """Validation loss of the last epoch over the lowest one."""
    losses = [row["valid_loss"] for row in case.rows if row["valid_loss"] is not None]
    return losses[-1] / min(losses) if len(losses) > 2 and min(losses) > 0 else None


def measure_handicap(case: Case) -> float | None:
    """Loss of a batch as it is trained on over its plain loss, at the end: what dropout and the like cost."""
    found = [probe.trial for _, probe in case.probes if probe.trial is not None]
    return found[-1][0] / found[-1][1] if found and found[-1][1] > 0 else None


def measure_pair(case: Case) -> float | None:
    """The share of the rows of two classes that are taken for the other one, largest over pairs."""
    return find_pair(case)[0]


def find_pair(case: Case) -> tuple[float | None, float, int, int]:
    """That share, the next largest of pairs of other classes, and the pair; of held-out rows where there are any."""
    judged = case.held_out[1] if case.held_out else case.train
    if judged is None or len(judged.confusion) < 4:
        return None, 0.0, 0, 0
    counts = judged.confusion.astype(np.float64)
    rows = counts.sum(axis=1)
    shares = np.triu((counts + counts.T) / np.maximum(rows[:, None] + rows, 1), 1)
    a, b = np.unravel_index(int(shares.argmax()), shares.shape)
    share = float(shares[a, b])
    shares[[a, b]] = shares[:, [a, b]] = 0
    return share, float(shares.max()), int(a), int(b)


def measure_evenness(case: Case) -> float | None:
    """How evenly mistakes spread over pairs of classes: the entropy of their counts over that of an even spread with as many.

    Confusable classes hold most mistakes of a healthy model; labels that were drawn at random spread them over all pairs.
    """
    judged = case.train
    if judged is None or len(judged.confusion) < 4:
        return None
    counts = judged.confusion[~np.eye(len(judged.confusion), dtype=bool)].astype(np.float64)
    if counts.sum() < 2 * len(counts):
        return None
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


def measure_renaming(case: Case) -> float | None:
    """How much more accurate held-out answers would be if classes were renamed in the best way."""
    if case.held_out is None:
        return None
    counts = case.held_out[1].confusion
    if (counts.diagonal() == counts.max(axis=1)).all():  # no row gains by another name
        return 0.0
    from scipy.optimize import linear_sum_assignment  # a third of a second, which a sound training is spared

    rows, columns = linear_sum_assignment(-counts)
    return float((counts[rows, columns].sum() - np.trace(counts)) / counts.sum())


STATISTICS: dict[str, tuple[Callable[[Case], float | None], str]] = {
    "input": (measure_input, "both"),
    "first loss": (measure_first_loss, "high"),
    "signal": (measure_signal, "low"),
    "growth": (measure_growth, "high"),
    "way back": (measure_way_back, "low"),
    "first rank": (measure_first_rank, "low"),
    "saturation": (measure_saturation, "high"),
    "silence": (measure_silence, "high"),
    "update": (measure_update, "both"),
    "leap": (measure_leap, "high"),
    "gain": (measure_gain, "high"),
    "jump": (measure_jump, "high"),
    "rise": (measure_rise, "high"),
    "late fall": (measure_late_fall, "high"),
    "collapse": (measure_collapse, "high"),
    "gap": (measure_gap, "high"),
    "valid rise": (measure_valid_rise, "high"),
    "handicap": (measure_handicap, "high"),
    "shrinkage": (measure_shrinkage, "low"),
    "pair": (measure_pair, "high"),
    "evenness": (measure_evenness, "high"),
    "renaming": (measure_renaming, "high"),
}
"""By name: how it is measured, and which side of the healthy values is bad."""
