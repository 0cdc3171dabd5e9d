"""The rules of two published tools, by the numbers in their papers, on the same recorded trainings: a baseline.

AUTOTRAINER (Zhang et al. 2021, ICSE, table 2) and UMLAUT (Schoop et al. 2021, CHI, section 4). A rule that needs what no training
here records (a model's source, for example) is left out.
"""

import numpy as np

from clearsight.diagnose.case import Case


def find_autotrainer(case: Case) -> set[str]:
    """Vanishing and exploding gradient, dying ReLU, oscillating loss, slow convergence."""
    found: set[str] = set()
    for _, probe in case.probes:
        gradients = [layer.gradient for layer in probe.layers]
        if len(gradients) > 1 and gradients[-1] > 0:
            ratio = gradients[0] / gradients[-1]
            if ratio < 1e-3 and gradients[0] < 1e-4:
                found.add("vanishing gradient")
            if ratio > 70:
                found.add("exploding gradient")
        if any(layer.silent >= 0.7 for layer in probe.layers[1:]):
            found.add("dying ReLU")
    if not np.isfinite(case.losses).all() or (case.losses >= 1e3).any():
        found.add("exploding gradient")
    accuracy = np.array([row["train_accuracy"] or 0.0 for row in case.rows])
    if len(accuracy) > 1:
        swings = np.abs(np.diff(accuracy))
        falls = np.diff(accuracy) < 0
        if (falls & (swings >= 0.03)).mean() >= 0.2:
            found.add("oscillating loss")
        if accuracy[-1] - accuracy[0] < 0.01 and accuracy[-1] < 0.6:
            found.add("slow convergence")
    return found


def find_umlaut(case: Case) -> set[str]:
    """Input not within [-1, 1], NaN loss, rate out of range, accuracy near chance, overfitting, missing activations."""
    found: set[str] = set()
    entering = case.first.layers[0] if case.first and case.first.layers else None
    if entering is not None and abs(entering.x_mean) + 2 * entering.x_std > 1:
        found.add("input out of range")
    if not np.isfinite(case.losses).all():
        found.add("loss is not a number")
    if case.choices.rate > 0.01:
        found.add("rate too high")
    if case.choices.rate < 1e-7:
        found.add("rate too low")
    if any(name == "identity" for name in case.choices.activations):
        found.add("missing activation")
    if case.choices.dropout > 0.5:
        found.add("dropout too high")
    losses = [(row["train_loss"], row["valid_loss"]) for row in case.rows if row["valid_loss"] is not None]
    if any(valid > train for train, valid in losses):
        found.add("overfitting")
    return found


NAMES: dict[str, set[str]] = {
    "rate too high": {"rate too high", "loss is not a number", "oscillating loss", "exploding gradient"},
    "rate too low": {"rate too low", "slow convergence"},
    "momentum too high": {"oscillating loss"},
    "weights too large": {"exploding gradient"},
    "weights too small": {"vanishing gradient"},
    "deep sigmoids": {"vanishing gradient"},
    "saturated tanh": {"vanishing gradient", "exploding gradient"},
    "no activation": {"missing activation"},
    "pixels unscaled": {"input out of range"},
    "dropout too strong": {"dropout too high"},
    "few pictures": {"overfitting"},
}
"""Which of their findings name a planted fault rightly."""
