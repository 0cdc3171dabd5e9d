"""What is wrong with labels and splits, by what a model makes of them."""

import numpy as np

from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Evidence, Finding
from clearsight.diagnose.statistics import find_pair, measure_evenness, measure_renaming

_NORTHCUTT = "Northcutt et al. 2021, Confident learning"


def find_unrelated_labels(case: Case) -> Finding | None:
    """Training rows learnt (by heart) clearly beyond chance, and held-out answers no better than chance, by their intervals."""
    if case.train is None or case.held_out is None:
        return None
    name, other = case.held_out
    chance = max(case.majority, 1 / max(len(case.classes), 2))
    low, high = other.interval
    if low > chance or high > chance + 0.25 or case.train.interval[0] <= max(high, chance + 0.02):
        return None
    return Finding(
        code="labels-unrelated",
        severity="severe",
        confidence=0.85,
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


def find_renamed_classes(case: Case) -> Finding | None:
    """Held-out accuracy that renaming classes would raise by 0.3 or more, though training rows are answered well."""
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
        evidence=(Evidence("accuracy gained by renaming classes", gain, 0.3),),
        advice=f"Number the classes of the {name} rows as those of the training rows.",
        alternatives=("labels-unrelated", "split-shift"),
    )


def find_flipped_pair(case: Case) -> Finding | None:
    """Two classes taken for each other in an eighth of their rows, both ways, and five times as often as any other pair."""
    share, a, b = find_pair(case)
    if share is None or share < 0.125 or case.learnt < 0.4:
        return None
    judged = case.held_out[1] if case.held_out else case.train
    assert judged is not None
    shares = judged.confusion / np.maximum(judged.confusion.sum(axis=1, keepdims=True), 1)
    both = np.minimum(shares, shares.T)
    np.fill_diagonal(both, 0)
    both[a, b] = both[b, a] = 0
    if both.max() * 5 > share:
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
        evidence=(Evidence("lesser of the two shares", share, 0.125, names),),
        advice="Look for wrong labels with `clearsight label-errors`.",
        alternatives=("labels-noisy",),
        reference=_NORTHCUTT,
    )


def find_noisy_labels(case: Case) -> Finding | None:
    """Mistakes on training rows whose entropy over pairs of classes is 0.93 of the greatest, in a network that learnt.

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
        evidence=(Evidence("evenness of the mistakes", even, 0.93), Evidence("training error", rate)),
        advice="Look for wrong labels with `clearsight label-errors`.",
        alternatives=("underfitting", "pair-flipped"),
        reference=_NORTHCUTT,
    )


def find_sorted_order(case: Case) -> Finding | None:
    """Rows that are not shuffled, whose neighbours have the same class three times as often as by chance, or nearly always."""
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
    """A class with a tenth of the rows of the largest or fewer, whose held-out rows are mostly answered wrongly, for certain."""
    if case.held_out is None or case.choices.weighted or not case.counts:
        return None
    counts, (name, other) = np.array(case.counts), case.held_out
    from clearsight.core.intervals import wilson_interval

    for k in np.argsort(counts):
        rows = int(other.confusion[k].sum())
        if counts[k] * 10 > counts.max() or rows < 5:
            continue
        hits = int(other.confusion[k, k])
        if wilson_interval(hits, rows)[1] < 0.6 and other.accuracy > 0.6:
            return Finding(
                code="imbalance",
                severity="warning",
                confidence=0.85,
                summary=(
                    f"{case.classes[k]!r} has {counts[k]:,} training rows, the largest class {counts.max():,}, "
                    f"and only {hits} of its {rows} {name} rows are answered rightly."
                ),
                cause=(
                    "A rare class hardly counts in the loss, so it pays to answer frequent ones; the accuracy "
                    "hides that."
                ),
                evidence=(
                    Evidence(
                        "rows over those of the largest class", float(counts[k] / counts.max()), 0.1, case.classes[k]
                    ),
                ),
                prescription={"train": {"sampling": "balanced"}},
                advice="Draw classes equally often, with --set train.sampling=balanced.",
                alternatives=("collapsed",),
                reference="He & Garcia 2009, Learning from imbalanced data",
            )
    return None


def find_split_shift(case: Case) -> Finding | None:
    """Test rows answered worse than validation rows by five points or more, with intervals that do not overlap."""
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
    """Transforms that the safety check found to change labels, and that were used all the same."""
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
