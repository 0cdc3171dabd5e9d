"""What goes wrong on the way: rate, momentum, batch, length, penalties, dropout, dead units."""

from math import log10

from clearsight.config.schema import DEFAULT_LR
from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Evidence, Finding
from clearsight.diagnose.statistics import (
    measure_collapse,
    measure_first_loss,
    measure_gain,
    measure_handicap,
    measure_jump,
    measure_late_fall,
    measure_leap,
    measure_rise,
    measure_shrinkage,
    measure_signal,
    measure_silence,
    measure_update,
)

_LOW_UPDATE, _HIGH_UPDATE = 3e-4, 0.05
_RATIO = "Karpathy 2016, CS231n, ratio of updates to weights: about 1e-3 is healthy"


def find_high_rate(case: Case) -> Finding | None:
    """Training started soundly and then diverged, rose above 1.5 times its initial loss, or lost what it had learnt.

    Signs: numbers that are not finite; a stretch of steps with a mean loss above 1.5 times the first one; steps above a twentieth
    of the weights; units that fall silent on the way; weights that grow threefold. One of them is enough beside a network that
    learnt nothing, or a training loss that rose again by 0.15 of the blind one. Healthy: jump under 1.1, rise under 0.05. First
    steps of more than half of a layer's weights, which then grow fivefold, are a warning by themselves.
    """
    first = measure_first_loss(case)
    jump, rise, update = measure_jump(case) or 0.0, measure_rise(case) or 0.0, measure_update(case) or 0.0
    silent = (measure_silence(case) or 0.0) - (measure_silence(case, case.first) or 0.0)
    rise = rise if case.steps_per_epoch >= 8 else 0.0  # one short batch weighs as much as the others
    grown, leap, signal = measure_gain(case) or 1.0, measure_leap(case) or 0.0, measure_signal(case)
    diverged = case.status == "diverged"
    signs = [
        Evidence("highest mean loss over the first one", jump, 1.5, statistic="jump") if jump > 1.5 else None,
        Evidence("step as a share of the weights", update, _HIGH_UPDATE, statistic="update")
        if update > _HIGH_UPDATE
        else None,
        Evidence("share of hidden units that fell silent", silent, 0.3) if silent > 0.3 else None,
        Evidence("growth of the weights", grown, 3.0, statistic="gain") if grown > 3 else None,
        Evidence("rise of the training loss, in blind losses", rise, 0.15, statistic="rise") if rise > 0.15 else None,
        Evidence("largest of the first steps, as a share of the weights", leap, 0.5, statistic="leap")
        if leap > 0.5
        else None,
        Evidence("status", case.status) if diverged else None,
    ]
    found = tuple(sign for sign in signs if sign is not None)
    leapt = leap > 0.5 and grown > 5 and (signal is None or signal > 0.03) and case.learnt < 0.98
    harmed = diverged or case.learnt < 0.1 or rise > 0.15 or (jump > 1.5 and not case.fits) or leapt
    if not found or not harmed or (first is not None and not first <= 10):
        return None
    momentum = case.choices.momentum >= 0.97
    code, name = ("momentum-too-high", "momentum") if momentum else ("rate-too-high", "learning rate")
    swung = "swung up and down" if rise > 0.15 or jump > 1.5 else "took leaps at first"
    what = "diverged" if diverged else "learnt next to nothing" if case.learnt < 0.3 else swung
    usual = DEFAULT_LR.get(case.choices.optimizer, 0.001)
    lower = case.choices.rate / 10 if case.choices.rate <= 300 * usual else usual
    cure = {"momentum": 0.9} if momentum else {"lr": _round(lower)}
    return Finding(
        code=code,
        severity="severe" if diverged or case.learnt < 0.5 else "warning",
        confidence=min(0.6 + 0.12 * len(found), 0.97),
        summary=(
            f"The training {what}: the {name} of "
            f"{case.choices.momentum if momentum else case.choices.rate:g} is too high."
        ),
        cause=(
            "Steps are so large that they leap across the valley of the loss and land higher, or where units are dead."
        ),
        evidence=found,
        prescription={"train": cure},
        advice=f"Take {'a momentum of 0.9' if momentum else 'a lower rate, or look for one with lr-find'}.",
        alternatives=("momentum-too-high" if not momentum else "rate-too-high", "dead-units", "exploding-signal"),
        reference="Goodfellow et al. 2016, Deep learning, section 11.4.1",
    )


def find_low_rate(case: Case) -> Finding | None:
    """A step moves the weights by less than 3e-4 of their size, all steps together by at most three times their size,
    and at least a fifth of the loss remains.

    Healthy trainings of this package have 1e-3 to 2e-2. Severe where less than a fifth of the loss is gone.
    """
    update, fall = measure_update(case), measure_late_fall(case)
    still = case.choices.rate == 0
    if update is None or not (still or 0 < update < _LOW_UPDATE) or case.learnt > 0.8 or case.fits:
        return None
    if update * len(case.losses) > 3:  # it has gone far, in small steps
        return None
    usual = DEFAULT_LR.get(case.choices.optimizer, 0.001)
    factor = 1.0 if still else min(10 ** round(log10(3e-3 / update)), 10_000)
    wanted = usual if still else min(case.choices.rate * factor, max(usual, case.choices.rate * 10))
    return Finding(
        code="rate-too-low",
        severity="severe" if case.learnt < 0.5 else "warning",
        confidence=0.9,
        summary=(
            f"A step moves the weights by {update:.1e} of their size, and {1 - max(case.learnt, 0):.0%} "
            "of the loss is still there."
        ),
        cause=(f"The learning rate of {case.choices.rate:g} is too low to get anywhere in {len(case.losses):,} steps."),
        evidence=(
            Evidence("step as a share of the weights", update, _LOW_UPDATE, statistic="update"),
            Evidence("fall of the loss over the last quarter", fall if fall is not None else "unknown"),
        ),
        prescription={"train": {"lr": _round(wanted)}},
        advice="Take a higher rate, or look for one with lr-find.",
        alternatives=("trained-too-short", "vanishing-gradient"),
        reference=_RATIO,
    )


def find_short_training(case: Case) -> Finding | None:
    """The loss fell by 2% or more over the last quarter of 2,000 steps or fewer, or training lasted only one or two
    epochs.

    The steps have a usual size, and less than nine tenths of the loss is gone. With fewer than 10 batches an epoch and fewer than
    300 steps in all, it is the batch that is too large.
    """
    update, fall, steps = measure_update(case), measure_late_fall(case), len(case.losses)
    brief = case.choices.epochs <= 2
    if (
        case.fits
        or case.status != "finished"
        or case.learnt > 0.9
        or (case.choices.schedule != "constant" and not brief)
    ):
        return None
    if not brief and (fall is None or fall < 0.02):
        return None
    if update is not None and not _LOW_UPDATE <= update <= _HIGH_UPDATE:
        return None
    large = case.steps_per_epoch < 10 and steps < 300 and case.choices.batch_size > 64
    if not large and steps > 2000 and case.choices.epochs > 3:
        return None
    code = "batch-too-large" if large else "trained-too-short"
    cure = {"batch_size": max(16, case.choices.batch_size // 16)} if large else {"epochs": case.choices.epochs * 5}
    return Finding(
        code=code,
        severity="severe" if case.learnt < 0.5 and large and case.choices.epochs >= 5 else "warning",
        confidence=0.85,
        summary=(
            f"The training ended after {steps:,} {'step' if steps == 1 else 'steps'}, over the last quarter of which the "
            f"loss fell by {max(fall or 0.0, 0.0):.0%}."
        ),
        cause="It took too few steps"
        + (f", as a batch of {case.choices.batch_size:,} leaves {case.steps_per_epoch} an epoch." if large else "."),
        evidence=(
            Evidence("fall of the loss over the last quarter", fall if fall is not None else "unknown", 0.02),
            Evidence("steps", steps),
        ),
        prescription={"train": cure},
        advice="Take smaller batches." if large else "Train longer.",
        alternatives=("rate-too-low", "underfitting"),
        reference="Masters & Luschi 2018, Revisiting small batch training" if large else "",
    )


def find_strong_penalty(case: Case) -> Finding | None:
    """A penalty or weight decay shrank the weights of a layer below 0.7 of their initial size, and the training rows
    are not fitted well.
    """
    shrunk, wild = measure_shrinkage(case), (measure_jump(case) or 0) > 1.5
    if wild or case.choices.decay <= 0 or shrunk is None or shrunk >= 0.7 or case.fits or case.choices.head:
        return None
    return Finding(
        code="penalty-too-strong",
        severity="severe" if case.learnt < 0.5 else "warning",
        confidence=0.9,
        summary=f"The penalty brought the weights of a layer down to {shrunk:.0%} of their first size.",
        cause="L1, L2 or weight decay pull the weights to 0 more strongly than the pictures pull them away.",
        evidence=(Evidence("weights at the end over those at the start", shrunk, 0.7, statistic="shrinkage"),),
        prescription={"train": {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0}},
        advice="Leave the penalty out, then try a hundredth of it.",
        alternatives=("underfitting", "rate-too-low"),
        reference="Goodfellow et al. 2016, Deep learning, section 7.1",
    )


def find_strong_dropout(case: Case) -> Finding | None:
    """Dropout of 0.5 or more raises the loss of a batch by at least a tenth, and the training rows are not fitted well
    even without it.
    """
    cost = measure_handicap(case)
    if (
        case.choices.dropout < 0.5
        or case.fits
        or case.learnt > 0.93
        or (cost is not None and cost < 1.1 and case.choices.dropout < 0.9)
    ):
        return None
    return Finding(
        code="dropout-too-strong",
        severity="severe" if case.learnt < 0.5 else "warning",
        confidence=0.8,
        summary=(
            f"With a dropout of {case.choices.dropout:g} the training rows themselves are answered "
            f"rightly in only {_share(case)}."
        ),
        cause="So many units are silenced at each step that the rest cannot learn the pictures.",
        evidence=(Evidence("loss with dropout over that without", cost if cost is not None else "unknown", 1.1),),
        prescription={"train": {"dropout": 0.2}},
        advice="Take a dropout of 0.2.",
        alternatives=("underfitting", "rate-too-low"),
        reference="Srivastava et al. 2014, Dropout, section A",
    )


def find_dead_units(case: Case) -> Finding | None:
    """More than half of the ReLU units of a layer are 0 for every picture of the probe.

    A sparse layer is no dead one. Severe above 0.9 where the network did not learn.
    """
    share = measure_silence(case)
    if share is None or share <= 0.5 or case.choices.normalised:
        return None
    return Finding(
        code="dead-units",
        severity="severe" if share > 0.9 and case.learnt < 0.5 else "warning" if not case.fits else "note",
        confidence=0.7,
        summary=f"{share:.0%} of the units of a hidden layer are 0 for every picture looked at.",
        cause="Their sums are negative for every picture, so their gradient is 0 and they never come back.",
        evidence=(Evidence("largest share of silent units of a layer", share, 0.5, statistic="silence"),),
        prescription={"model": {"activation": "leaky_relu"}},
        advice="Take a lower rate, or leaky ReLU, whose slope is never 0.",
        alternatives=("rate-too-high", "vanishing-signal"),
        reference="Lu et al. 2020, Dying ReLU and initialization",
    )


def find_collapse(case: Case) -> Finding | None:
    """The share of one class among the predictions exceeds its share of the training rows by more than 0.3, and the
    training rows are not fitted well.
    """
    excess = measure_collapse(case)
    if excess is None or excess <= 0.3 or case.train is None or case.fits:
        return None
    most = int(case.train.confusion.sum(axis=0).argmax())
    return Finding(
        code="collapsed",
        severity="severe" if case.learnt < 0.3 else "warning",
        confidence=0.5,
        summary=f"Most pictures are answered {case.classes[most]!r}.",
        cause="The outputs hardly depend on the picture any more.",
        evidence=(
            Evidence("answers beyond the class's own share", excess, 0.3, case.classes[most], statistic="collapse"),
        ),
        advice="Cure what comes before it.",
        alternatives=("rate-too-high", "vanishing-signal", "imbalance"),
    )


def find_stuck(case: Case) -> Finding | None:
    """The training loss is within 5% of that of a blind guess, or above it: the network has learnt nothing from the
    pictures.
    """
    if case.train is None or case.learnt > 0.05:
        return None
    low, _ = case.train.interval
    if low > case.majority + 0.1:
        return None
    return Finding(
        code="stuck",
        severity="severe",
        confidence=0.5,
        summary=(
            f"The training loss is {case.train.loss:.4g}, that of a blind guess {case.blind_loss:.4g}: "
            "nothing was learnt."
        ),
        cause="Pictures and labels may have nothing to do with each other, or no step leads anywhere.",
        evidence=(Evidence("training loss (nats)", case.train.loss, case.blind_loss),),
        advice="Train on a few rows alone: if the network cannot learn them by heart, look at it; if it can, at the labels.",
        alternatives=("labels-unrelated", "rate-too-low", "rate-too-high"),
    )


def _share(case: Case) -> str:
    return f"{case.train.accuracy:.0%} of cases" if case.train else "few cases"


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")
