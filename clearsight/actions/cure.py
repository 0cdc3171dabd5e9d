"""Proving a prescription: the run as it was, cured, with a sham change, and by random search, on paired seeds.

A cure without a control proves nothing: another seed, or any other try, may help as much. Random search is the rival to beat. It
did as well, with equal budget, as the published tools that repair networks (Kim et al. 2023, "Repairing DNN architecture", ICST).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clearsight.actions.doctor import Diagnosis
from clearsight.config.build import build_config
from clearsight.config.files import merge, render_toml
from clearsight.config.rules import check_used, drop_unused
from clearsight.config.schema import RunConfig
from clearsight.core.intervals import mean_interval
from clearsight.core.progress import Meter, MeterBuilder, SilentMeter
from clearsight.data.dataset import Dataset
from clearsight.diagnose.examine import examine
from clearsight.diagnose.finding import Finding
from clearsight.diagnose.proof import Arm, Bill, Change, Cure
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.data import load_given
from clearsight.pipeline.train_in_memory import train_case
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory

CURED = "cured.toml"
_MOST_ROUNDS, _LEAST_TRIES, _MOST_SEEDS = 6, 5, 100
_NEARLY, _WORTH = 0.005, 0.01  # of accuracy: a change that brings less is left out; a cure must bring more
_MOVED = 1.05  # what a sham change multiplies a number by


@dataclass(eq=False)
class _Ward:
    """Trains configurations on one data set and remembers what came of them."""

    dataset: Dataset
    advance: Meter
    known: dict[str, tuple[float, list[Finding]]] = field(default_factory=dict)

    def try_out(self, config: RunConfig, seed: int) -> tuple[float, list[Finding]]:
        """Accuracy on validation rows, 0 for what cannot be trained, and the findings."""
        config = config.change("train", seed=seed)
        key = config.model_dump_json()
        if key not in self.known:
            try:
                case = train_case(config, self.dataset, begun=True, hidden=("test",))
                self.known[key] = case.judged["valid"].accuracy, examine(case)
            except (UsageError, DataError):
                self.known[key] = 0.0, []
            self.advance(1)
        return self.known[key]

    def score(self, config: RunConfig, seeds: list[int]) -> tuple[float, ...]:
        """Accuracy for each seed."""
        return tuple(self.try_out(config, seed)[0] for seed in seeds)


def cure(diagnosis: Diagnosis, *, seeds: int = 5, meter: MeterBuilder = SilentMeter) -> Cure:
    """Take the doctor's prescriptions one after the other, examine again after each, and prove the result.

    Args:
        diagnosis: of a run whose data is still there. seeds: pairs of trainings in the proof. meter: shows progress.

    Raises:
        UsageError: too few seeds; a regression, or a run without validation rows. DataError: the data is not as it was.
    """
    if not 2 <= seeds <= _MOST_SEEDS:
        raise UsageError(f"seeds must be 2 to {_MOST_SEEDS}, got {seeds}. Use 5: a single pair shows nothing.")
    if diagnosis.run is None or diagnosis.case is None:
        raise UsageError(
            f"--cure must have a run, got the data {diagnosis.data}. Train first, and name the run directory."
        )
    config = store.read_run_config(diagnosis.run)
    if not diagnosis.case.classes or "valid" not in diagnosis.case.judged:
        got = "a regression" if not diagnosis.case.classes else "no validation rows"
        raise UsageError(
            f"--cure must have classes and validation rows, got {got}. Train a classifier with data.valid_fraction 0.1."
        )
    if not any(one.prescription and one.severity != "note" for one in diagnosis.findings):
        raise UsageError(
            f"--cure must have a finding with a prescription, got none of {diagnosis.run}. Leave --cure out."
        )
    dataset = load_given(config, None, None, meter=meter)
    if dataset.fingerprint != store.read_json(RunDirectory(diagnosis.run).record).get("fingerprint"):
        raise DataError(
            f"--cure must find the same data as the run had, got other pictures or labels in {config.data.source}. "
            "Bring the old data back, or train again."
        )
    first = config.train.seed
    chosen_on, numbers = [first, first + 1], [first + 1000 + k for k in range(seeds)]  # what chooses does not prove
    with meter("treating", 0, unit="trainings") as advance:
        ward = _Ward(dataset, advance)
        changes, tries = _treat(ward, config, first)
        changes, cured = _reduce(ward, config, changes, chosen_on)
        before = ward.score(config, numbers)
        arms = {"as it was": _compare("as it was", before, before)}
        arms["cured"] = _compare("cured", ward.score(cured, numbers), before)
        arms["sham"] = _compare("sham", ward.score(_feign(config, changes), numbers), before)
        found = _search_randomly(ward, config, tries, first)
        arms["random search"] = _compare("random search", ward.score(found, numbers), before)
        bills = tuple(_bill(ward, config, changes, change, arms["cured"], numbers) for change in changes)
        left = tuple(one.code for one in ward.try_out(cured, first)[1] if one.severity != "note")
    gain, low = arms["cured"].gain, arms["cured"].low or 0.0
    helped = bool(changes) and gain > max(_WORTH, arms["sham"].gain) and low > 0
    file = diagnosis.run / CURED if helped else None
    if file is not None:
        store.write_text(file, render_toml(cured))
    kept = changes if helped else ()
    n = diagnosis.case.judged["valid"].n
    return Cure(arms, n, kept, bills if helped else (), tries, cured if helped else config, file, left)


def _treat(ward: _Ward, config: RunConfig, seed: int) -> tuple[tuple[Change, ...], int]:
    """Prescriptions in turn, each examined anew, until none is left that helps; and how many trainings that took."""
    changes: list[Change] = []
    refused: set[str] = set()
    score, findings = ward.try_out(config, seed)
    best, tries = score, 1
    while tries <= _MOST_ROUNDS:
        wanted = [one for one in findings if one.prescription and one.severity != "note" and one.code not in refused]
        if not wanted:
            break
        change = Change(wanted[0].code, wanted[0].prescription)
        tried = _apply(config, (*changes, change))
        if tried is None or tried == _apply(config, tuple(changes)):
            refused.add(change.code)
            continue
        score, after = ward.try_out(tried, seed)
        tries += 1
        if score < best - _WORTH:
            refused.add(change.code)
            continue
        changes.append(change)
        best, findings = max(best, score), after
    return tuple(changes), max(tries, _LEAST_TRIES)


def _apply(config: RunConfig, changes: tuple[Change, ...]) -> RunConfig | None:
    """The configuration with all changes, the later over the earlier; None where they do not go together."""
    values = merge(config.model_dump(exclude_unset=True), *(change.patch for change in changes))
    try:
        changed = drop_unused(build_config(values))
        check_used(changed)
        return changed
    except UsageError:
        return None


def _reduce(
    ward: _Ward, config: RunConfig, changes: tuple[Change, ...], seeds: list[int]
) -> tuple[tuple[Change, ...], RunConfig]:
    """The smallest set of changes that does as well, found by taking them away one by one, the last first."""
    best = _apply(config, changes) or config
    for change in reversed(changes):
        fewer = tuple(one for one in changes if one is not change)
        tried = _apply(config, fewer)
        if tried is not None and np.mean(ward.score(tried, seeds)) >= np.mean(ward.score(best, seeds)) - _NEARLY:
            changes, best = fewer, tried
    return changes, best


def _feign(config: RunConfig, changes: tuple[Change, ...]) -> RunConfig:
    """A change of the same kind without effect: the numbers among the settings moved by a twentieth; words stay as they are."""
    patch: dict[str, Any] = {}
    for section, inner in merge(*(change.patch for change in changes)).items() if changes else ():
        for name in inner:
            value = config.lr if name == "lr" else getattr(getattr(config, section), name)
            if isinstance(value, float) and not isinstance(value, bool):
                patch = merge(patch, {section: {name: value * _MOVED}})
    return _apply(config, (Change("sham", patch),)) or config


def _search_randomly(ward: _Ward, config: RunConfig, tries: int, seed: int) -> RunConfig:
    """The best of so many random settings of what people turn first: rate, optimiser, batch, first weights, activation, scale."""
    rng = np.random.default_rng([seed, 0x5EA2C4])
    found, best = config, -1.0
    for _ in range(tries):
        patch: dict[str, Any] = {
            "train": {
                "lr": float(f"{10 ** rng.uniform(-5, 1):.2g}"),
                "optimizer": str(rng.choice(("sgd", "momentum", "adam", "rmsprop"))),
                "batch_size": int(rng.choice((8, 16, 32, 64, 128, 256))), "dropout": float(rng.choice((0.0, 0.0, 0.2, 0.5))),
            },
            "preprocess": {"scale": str(rng.choice(("unit", "standardize", "none")))},
        }  # fmt: skip
        if not config.model.pretrained:
            patch["model"] = {"init": str(rng.choice(("auto", "normal", "orthogonal", "xavier")))}
            if config.hidden or not config.network.dense:
                patch["model"]["activation"] = str(rng.choice(("relu", "tanh", "sigmoid")))
        tried = _apply(config, (Change("random", patch),))
        score = ward.try_out(tried, seed)[0] if tried is not None else 0.0
        if score > best:
            found, best = tried or config, score
    return found


def _bill(
    ward: _Ward, config: RunConfig, changes: tuple[Change, ...], change: Change, cured: Arm, seeds: list[int]
) -> Bill:
    """What the cured run loses where one change alone is taken away."""
    without = _apply(config, tuple(one for one in changes if one is not change)) or config
    lost = _compare(change.code, cured.scores, ward.score(without, seeds))
    return Bill(change, lost.gain, lost.low, lost.high)


def _compare(name: str, scores: tuple[float, ...], before: tuple[float, ...]) -> Arm:
    differences = tuple(a - b for a, b in zip(scores, before, strict=True))
    low, high = mean_interval(differences, least=-1.0, most=1.0)
    return Arm(name, scores, float(np.mean(differences)), low, high)
