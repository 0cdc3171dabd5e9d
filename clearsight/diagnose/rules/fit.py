"""What the end of a training shows: networks too small or wrongly built, and models that do not hold for other pictures."""

from math import ceil, log2

from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Evidence, Finding
from clearsight.diagnose.statistics import measure_gap, measure_valid_rise


def find_bottleneck(case: Case) -> Finding | None:
    """A hidden layer has at most a third as many units as there are classes, or too few to encode a class in binary,
    and the training rows are not fitted well.
    """
    least, classes = min(case.choices.hidden, default=0), len(case.classes)
    if not least or case.fits or least > max(ceil(log2(max(classes, 2))) - 1, classes // 3):
        return None
    return Finding(
        code="bottleneck",
        severity="severe" if case.learnt < 0.6 else "warning",
        confidence=0.93,
        summary=f"A hidden layer has {least} {'unit' if least == 1 else 'units'} for {classes} classes.",
        cause="All that is known of a picture must pass through it as so few numbers.",
        evidence=(Evidence("units of the narrowest hidden layer", least, classes / 3),),
        prescription={"model": {"hidden": _widen(case)}},
        advice="Widen the hidden layers.",
        alternatives=("underfitting",),
        reference="Tishby & Zaslavsky 2015, Deep learning and the information bottleneck",
    )


def _widen(case: Case) -> list[int]:
    return [max(width, 32) for width in case.choices.hidden]


def find_missing_nonlinearity(case: Case) -> Finding | None:
    """No hidden dense layer has an activation, so together they are one linear layer."""
    names = case.choices.activations
    if not case.choices.dense or not names or any(name != "identity" for name in names):
        return None
    return Finding(
        code="missing-nonlinearity",
        severity="warning",
        confidence=0.97,
        summary="The hidden layers have no activation.",
        cause=(
            "Linear layers in a row are one linear layer, so the network can draw only straight lines between classes."
        ),
        evidence=(Evidence("hidden layers without activation", len(names), 0.0),),
        prescription={"model": {"activation": "relu"}},
        advice="Use ReLU in the hidden layers.",
        alternatives=("underfitting",),
        reference="Goodfellow et al. 2016, Deep learning, section 6.1",
    )


def find_underfitting(case: Case) -> Finding | None:
    """Training accuracy is above chance, but its whole interval lies below 0.9."""
    if case.train is None or case.train.interval[1] >= 0.9 or case.learnt <= 0.05 or case.choices.head:
        return None
    return Finding(
        code="underfitting",
        severity="warning",
        confidence=0.5,
        summary=f"Only {case.train.accuracy:.0%} of the training rows themselves are answered rightly.",
        cause="The network is too small, the training too short, or the labels contradict each other.",
        evidence=(Evidence("training accuracy", case.train.accuracy, 0.9, f"n = {case.train.n:,}"),),
        advice="Train longer or take a larger network; if that does not help, look at the labels.",
        alternatives=("trained-too-short", "labels-noisy", "bottleneck"),
        reference="Ng 2018, Machine learning yearning, chapter 20",
    )


def find_overfitting(case: Case) -> Finding | None:
    """Training accuracy is at least two points above held-out accuracy, and their intervals do not overlap.

    Below five points, which is usual, this is a note.
    """
    gap = measure_gap(case)
    if gap is None or case.train is None or case.held_out is None or gap < 0.02:
        return None
    name, other = case.held_out
    if case.train.interval[0] <= other.interval[1]:
        return None
    return Finding(
        code="overfitting",
        severity="warning" if gap >= 0.05 else "note",
        confidence=0.8,
        summary=f"Accuracy is {case.train.accuracy:.3f} on training rows and {other.accuracy:.3f} on {name} rows.",
        cause="The network knows its training pictures by heart, which does not help with others.",
        evidence=(
            Evidence(
                "training accuracy less the other", gap, 0.02, f"n = {case.train.n:,} and {other.n:,}", statistic="gap"
            ),
        ),
        prescription={"train": {"dropout": 0.3}},
        advice="More pictures, varied pictures (--augment), dropout or L2.",
        alternatives=("split-shift", "labels-noisy"),
        reference="Ng 2018, Machine learning yearning, chapter 20",
    )


def find_overtraining(case: Case) -> Finding | None:
    """The validation loss has risen to at least 1.25 times its minimum, and the model has the weights of the last epoch."""
    rise = measure_valid_rise(case)
    if rise is None or rise < 1.25 or case.choices.patience is not None:
        return None
    best = min((row["valid_loss"], row["epoch"]) for row in case.rows if row["valid_loss"] is not None)[1]
    return Finding(
        code="overtrained",
        severity="warning",
        confidence=0.8,
        summary=f"The validation loss was lowest after epoch {best} and is {rise:.2f} times as high at the end.",
        cause="After that epoch, the network learnt what holds for its training pictures alone.",
        evidence=(Evidence("validation loss at the end over its lowest", rise, 1.25, statistic="valid rise"),),
        prescription={"train": {"patience": max(3, best // 4)}},
        advice="Stop early, with --patience.",
        alternatives=("rate-too-high", "overfitting"),
        reference="Prechelt 1998, Early stopping: but when?",
    )


def find_miscalibration(case: Case) -> Finding | None:
    """The calibration error, corrected for chance, has a 95% interval that lies entirely above 0.05."""
    if case.miscalibration is None or case.miscalibration[0] <= 0.05 or case.held_out is None:
        return None
    low, high = case.miscalibration
    return Finding(
        code="miscalibrated",
        severity="warning",
        confidence=0.9,
        summary=f"Stated confidence and accuracy differ by {low:.2f} to {high:.2f} on average.",
        cause="The network is surer of its answers, or less sure, than it has reason to be.",
        evidence=(Evidence("calibration error, lower end of its 95 % interval", low, 0.05),),
        advice="Keep more validation rows, on which confidence is calibrated.",
        alternatives=("overfitting",),
        reference="Guo et al. 2017, On calibration of modern neural networks",
    )


def find_small_validation(case: Case) -> Finding | None:
    """The held-out split is so small that the interval of its accuracy is wider than 0.1."""
    if case.held_out is None:
        return None
    name, other = case.held_out
    low, high = other.interval
    if high - low <= 0.1:
        return None
    return Finding(
        code="few-held-out",
        severity="note",
        confidence=1.0,
        summary=(
            f"The {name} accuracy of {other.accuracy:.2f} rests on {other.n:,} pictures and could as well "
            f"be {low:.2f} or {high:.2f}."
        ),
        cause="So few pictures cannot tell models apart that differ by less.",
        evidence=(Evidence("width of the 95 % interval", high - low, 0.1, f"n = {other.n:,}"),),
        prescription={"data": {"folds": 5}},
        advice="Judge by `clearsight cv`, on all pictures.",
        reference="Wilson 1927",
    )
