"""All rules of the doctor, from causes to symptoms: what comes first explains what comes after it."""

from collections.abc import Callable

from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Finding
from clearsight.diagnose.rules import course, fit, labels, start

Rule = Callable[[Case], Finding | None]
RULES: dict[str, Rule] = {
    "constant-inputs": start.find_constant_inputs,
    "unscaled-inputs": start.find_unscaled_inputs,
    "faint-inputs": start.find_faint_inputs,
    "symmetric-weights": start.find_symmetric_weights,
    "not-shuffled": labels.find_sorted_order,
    "labels-renamed": labels.find_renamed_classes,
    "labels-unrelated": labels.find_unrelated_labels,
    "labels-noisy": labels.find_noisy_labels,
    "pair-flipped": labels.find_flipped_pair,
    "imbalance": labels.find_imbalance,
    "bottleneck": fit.find_bottleneck,
    "missing-nonlinearity": fit.find_missing_nonlinearity,
    "exploding-signal": start.find_exploding_signal,
    "saturated-units": start.find_saturated_units,
    "vanishing-signal": start.find_vanishing_signal,
    "vanishing-gradient": start.find_vanishing_gradient,
    "augmentation-unsafe": labels.find_unsafe_variation,
    "dropout-too-strong": course.find_strong_dropout,
    "penalty-too-strong": course.find_strong_penalty,
    "rate-too-high": course.find_high_rate,
    "rate-too-low": course.find_low_rate,
    "trained-too-short": course.find_short_training,
    "split-shift": labels.find_split_shift,
    "dead-units": course.find_dead_units,
    "collapsed": course.find_collapse,
    "stuck": course.find_stuck,
    "overtrained": fit.find_overtraining,
    "overfitting": fit.find_overfitting,
    "underfitting": fit.find_underfitting,
    "miscalibrated": fit.find_miscalibration,
    "few-held-out": fit.find_small_validation,
}
NEVER_SEVERE = {
    "missing-nonlinearity", "labels-noisy", "pair-flipped", "imbalance", "split-shift", "overtrained", "overfitting",
    "underfitting", "miscalibrated", "few-held-out",
}  # fmt: skip
"""Rules that raise warnings and notes alone, so that no severe false alarm can be theirs."""
DATA_CODES = {
    "constant-inputs", "labels-renamed", "labels-unrelated", "labels-noisy", "pair-flipped", "imbalance", "split-shift",
}  # fmt: skip
"""Findings that a training's data is to blame for, whatever its settings."""
