"""What is wrong with labels and splits, by what a model makes of them."""

import numpy as np

from clearsight.core.intervals import wilson_interval
from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Evidence, Finding
from clearsight.diagnose.statistics import (
    find_pair,
    measure_evenness,
    measure_first_loss,
    measure_jump,
    measure_renaming,
    measure_signal,
    measure_silence,
    measure_update,
    measure_way_back,
)

_NORTHCUTT = "Northcutt et al. 2021, Confident learning"


def find_unrelated_labels(case: Case) -> Finding | None:
    """The training rows are fitted (memorised) clearly better than chance, but held-out accuracy is no better than
    chance, judged by their intervals.

    Or nothing learnt at all in 500 steps or more of a usual size, from sound first weights, with no sign of a rate too high.
    """
    if case.train is None or case.held_out is None:
        return None
    name, other = case.held_out
    chance = max(case.majority, 1 / max(len(case.classes), 2))
    low, high = other.interval
    by_heart = case.train.interval[0] > chance + 0.01 and case.train.accuracy - other.accuracy > 0.03
    if len(case.losses) < 300 or (case.learnt < 0.1 and (measure_update(case) or 1.0) < 3e-4):  # it has hardly moved
        by_heart = False
    if low > chance or high > chance + 0.25 or not (by_heart or _is_sound_but_stuck(case)):
        return None
    return Finding(
        code="labels-unrelated",
        severity="severe",
        confidence=0.85 if by_heart else 0.6,
        summary=(
            f"Training rows are answered rightly in {case.train.accuracy:.0%}, {name} rows in "
            f"{other.accuracy:.0%}, which is chance."
        ),
        cause=(
            "The labels have nothing to do with their pictures: they were probably shuffled, so the "
            "network can only learn by heart."
        ),
        evidence=(
            Evidence(f"{name} accuracy", other.accuracy, chance, f"n = {other.n:,}"),
            Evidence("training accuracy", case.train.accuracy, chance, f"n = {case.train.n:,}"),
        ),
        advice="Look at pictures beside their labels, with `clearsight data show`.",
        alternatives=("overfitting", "labels-renamed"),
        reference="Zhang et al. 2017, Understanding deep learning requires rethinking generalization",
    )


def _is_sound_but_stuck(case: Case) -> bool:
    """Whether a training took many steps of a usual size from sound first weights, and learnt nothing."""
    update, signal, back = measure_update(case), measure_signal(case), measure_way_back(case)
    started = (
        (measure_first_loss(case) or 9) < 2 and (signal is None or signal > 0.01) and (back is None or back > 0.01)
    )
    went = (
        update is not None
        and 3e-4 < update < 0.05
        and (measure_jump(case) or 9) < 1.3
        and (measure_silence(case) or 0) < 0.5
    )
    free = case.choices.decay < 1e-3 and case.choices.dropout < 0.5 and case.choices.shuffled
    return case.learnt < 0.05 and len(case.losses) >= 500 and started and went and free


def find_renamed_classes(case: Case) -> Finding | None:
    """Renaming the classes would raise the held-out accuracy by 0.3 or more, although the training rows are fitted well."""
    gain = measure_renaming(case)
    if gain is None or gain < 0.3 or case.learnt < 0.5 or case.held_out is None:
        return None
    name, other = case.held_out
    return Finding(
        code="labels-renamed",
        severity="severe",
        confidence=0.95,
        summary=(
            f"The {name} rows are answered by the right groups under wrong names: {other.accuracy:.0%} "
            f"would be {other.accuracy + gain:.0%}."
        ),
        cause=f"Classes have other numbers in the {name} rows than in the training rows.",
        evidence=(Evidence("accuracy gained by renaming classes", gain, 0.3, statistic="renaming"),),
        advice=f"Number the classes of the {name} rows as those of the training rows.",
        alternatives=("labels-unrelated", "split-shift"),
    )


def find_flipped_pair(case: Case) -> Finding | None:
    """Two classes are taken for each other in at least 15% of their rows, and in at least twice the share of any other
    pair plus 5 points.
    """
    share, other, a, b = find_pair(case)
    if share is None or share < 0.15 or share < 2 * other + 0.05 or case.learnt < 0.4:
        return None
    names = f"{case.classes[a]!r} and {case.classes[b]!r}"
    return Finding(
        code="pair-flipped",
        severity="warning",
        confidence=0.7,
        summary=f"{names} are taken for each other in {share:.0%} of their rows, and hardly any others are.",
        cause=(
            f"Labels of {names} may have been exchanged in many rows, or the two cannot be told apart by "
            "these pictures."
        ),
        evidence=(Evidence("rows of the two that are taken for the other", share, 0.15, names, statistic="pair"),),
        advice="Look for wrong labels with `clearsight label-errors`.",
        alternatives=("labels-noisy",),
        reference=_NORTHCUTT,
    )


def find_noisy_labels(case: Case) -> Finding | None:
    """The network has learnt, but its mistakes on training rows spread over pairs of classes with at least 0.93 of the
    maximum entropy.

    A healthy one's gather on a few pairs.
    """
    even = measure_evenness(case)
    if even is None or even < 0.93 or case.learnt < 0.1 or case.train is None or case.train.accuracy > 0.95:
        return None
    rate = 1 - case.train.accuracy
    return Finding(
        code="labels-noisy",
        severity="warning",
        confidence=0.75,
        summary=f"{rate:.0%} of the training rows are answered wrongly, and evenly over all pairs of classes.",
        cause="Classes that look alike would gather the mistakes; labels drawn at random spread them.",
        evidence=(
            Evidence("evenness of the mistakes", even, 0.93, statistic="evenness"),
            Evidence("training error", rate),
        ),
        advice="Look for wrong labels with `clearsight label-errors`.",
        alternatives=("underfitting", "pair-flipped"),
        reference=_NORTHCUTT,
    )


def find_sorted_order(case: Case) -> Finding | None:
    """The rows are not shuffled, and neighbouring rows have the same class three times as often as by chance, or nearly
    always.
    """
    if case.choices.shuffled or case.adjacent is None or not case.counts:
        return None
    chance = sum((n / sum(case.counts)) ** 2 for n in case.counts)
    if case.adjacent < min(3 * chance, (1 + chance) / 2):
        return None
    return Finding(
        code="not-shuffled",
        severity="severe" if not case.fits else "warning",
        confidence=0.95,
        summary=(
            f"{case.adjacent:.0%} of the training rows are followed by one of the same class, and they "
            "are not shuffled."
        ),
        cause="Batches hold one class each, so every step unlearns the classes before it.",
        evidence=(Evidence("neighbours of the same class", case.adjacent, min(3 * chance, (1 + chance) / 2)),),
        prescription={"train": {"shuffle": True}},
        advice="Shuffle the rows.",
        alternatives=("rate-too-high", "collapsed"),
        reference="Bengio 2012, Practical recommendations, section 3.1",
    )


def find_imbalance(case: Case) -> Finding | None:
    """A class has at most a tenth of the rows of the largest class. This is a note, or a warning if its recall is
    clearly below 0.7.

    The training rows count here as well as the held-out ones: a rare class that is ignored is ignored everywhere.
    """
    if case.train is None or case.choices.weighted or not case.counts:
        return None
    counts, rare = np.array(case.counts), int(np.argmin(case.counts))
    if not 0 < counts[rare] * 10 <= counts.max():
        return None
    both = case.train.confusion + (case.held_out[1].confusion if case.held_out else 0)
    hits, rows = int(both[rare, rare]), int(both[rare].sum())
    ignored = wilson_interval(hits, rows)[1] < 0.7 and case.train.accuracy > 0.6
    return Finding(
        code="imbalance",
        severity="warning" if ignored else "note",
        confidence=0.9,
        summary=(
            f"{case.classes[rare]!r} has {counts[rare]:,} training rows, the largest class {counts.max():,}; {hits} of "
            f"{rows} are answered rightly."
        ),
        cause="A rare class hardly counts in the loss, so it pays to answer frequent ones; the accuracy hides that.",
        evidence=(Evidence("rows over those of the largest class", float(counts[rare] / counts.max()), 0.1),),
        prescription={"train": {"sampling": "balanced"}},
        advice="Draw classes equally often.",
        alternatives=("collapsed",),
        reference="He & Garcia 2009, Learning from imbalanced data",
    )


def find_split_shift(case: Case) -> Finding | None:
    """Test accuracy is at least five points below validation accuracy, and their intervals do not overlap."""
    if "test" not in case.judged or "valid" not in case.judged:
        return None
    valid, test = case.judged["valid"], case.judged["test"]
    if valid.accuracy - test.accuracy < 0.05 or valid.interval[0] <= test.interval[1]:
        return None
    return Finding(
        code="split-shift",
        severity="warning",
        confidence=0.8,
        summary=f"Accuracy is {valid.accuracy:.3f} on validation rows and {test.accuracy:.3f} on test rows.",
        cause="The test pictures come from elsewhere: other writers, light, cameras, or times.",
        evidence=(
            Evidence(
                "validation accuracy less test accuracy",
                valid.accuracy - test.accuracy,
                0.05,
                f"n = {valid.n:,} and {test.n:,}",
            ),
        ),
        advice="Compare the splits with `clearsight data check`, and collect training pictures like the test ones.",
        alternatives=("labels-renamed", "overfitting"),
        reference="Recht et al. 2019, Do ImageNet classifiers generalize to ImageNet?",
    )


def find_unsafe_variation(case: Case) -> Finding | None:
    """Training used transforms that the safety check found to change labels."""
    if not case.unsafe:
        return None
    names = ", ".join(case.unsafe)
    return Finding(
        code="augmentation-unsafe",
        severity="severe" if not case.fits else "warning",
        confidence=0.95,
        summary=f"Pictures are varied by {names}, which changes their labels.",
        cause="A varied picture keeps its label, but shows something else: half a disc, or a 6 turned into a 9.",
        evidence=(Evidence("unsafe transforms", names),),
        prescription={"augment": {name.split()[0]: 0.0 for name in case.unsafe}},
        advice="Leave these transforms out; `clearsight data safety` shows examples.",
        alternatives=("labels-noisy", "underfitting"),
    )
