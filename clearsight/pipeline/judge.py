"""After training: the model, what it answers on every split, and whether its confidence is true.

It must not know where a run is kept.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.bundle.bundle import Bundle
from clearsight.config.schema import RunConfig
from clearsight.core.notebook import render_facts
from clearsight.core.threads import one_blas_thread
from clearsight.data.dataset import Dataset
from clearsight.data.split import Rows
from clearsight.diagnose.finding import Finding
from clearsight.evaluation.calibration import conformal_scores, fit_temperature, measure_calibration
from clearsight.evaluation.metrics import Evaluation, evaluate_logits, evaluate_numbers
from clearsight.evaluation.novelty import MOST_KNOWN, remember
from clearsight.pipeline.prepare import Prepared
from clearsight.runs.directory import RunDirectory
from clearsight.training.fit import FitResult
from clearsight.training.history import History

_MOST_SCORES = 10_000  # of held-out rows that a model remembers


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has ended.

    Args:
        path: its directory, None if it was kept in memory. status: `finished`, `stopped early` or `diverged`.
        epoch: whose weights are in force. bundle: the model. history: of the training.
        train, valid, test: evaluations, None for a split that does not exist.
        next_step: what to try after it, as a sentence; empty for a run in memory.
        findings: what is wrong with it, worst first, by the doctor's rules; of a run in memory none was looked for.
    """

    config: RunConfig
    path: Path | None
    status: str
    epoch: int
    bundle: Bundle
    history: History
    engine: str
    train: Evaluation
    valid: Evaluation | None
    test: Evaluation | None
    next_step: str = ""
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        judged = self.test or self.valid or self.train
        place = f"{self.path}: " if self.path else ""
        return f"Run({place}{self.status} at epoch {self.epoch}, {judged!r})"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {
            "status": f"{self.status}, weights of epoch {self.epoch}",
            "network": self.bundle.net.label,
        }
        for split, found in self.evaluations().items():
            facts[split] = ", ".join(f"{name} {value}" for name, value in found.facts().items())
        facts |= {"report": RunDirectory(self.path).report if self.path else None, "next": self.next_step or None}
        return render_facts(f"Run {self.path.name if self.path else 'in memory'}", facts)

    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations that exist, by split."""
        found = {"train": self.train, "valid": self.valid, "test": self.test}
        return {split: evaluation for split, evaluation in found.items() if evaluation}

    def summary(self) -> dict[str, Any]:
        """The object that `train --json` prints; its keys are a contract."""
        seconds = self.history.seconds
        return {
            "run": str(self.path) if self.path else None,
            "bundle": str(RunDirectory(self.path).model) if self.path else None,
            "report": str(RunDirectory(self.path).report) if self.path else None,
            "status": self.status,
            "epoch": self.epoch,
            "seed": self.config.train.seed,
            "engine": self.engine,
            "parameters": self.bundle.net.num_parameters,
            "data": self.bundle.data,
            "seconds": seconds,
            "seconds_per_epoch": seconds / max(len(self.history.epochs), 1),
            "next_step": self.next_step or None,
            "findings": [finding.as_dict() for finding in self.findings],
            **{s: e.as_dict() if (e := self.evaluations().get(s)) else None for s in ("train", "valid", "test")},
        }


def build_bundle(prepared: Prepared, *, epoch: int, status: str) -> Bundle:
    """The model with the weights now in force."""
    dataset = prepared.dataset
    return Bundle(
        prepared.net, prepared.engine.params(), dataset.class_names, prepared.preprocess,
        data={"name": dataset.name, "fingerprint": dataset.fingerprint},
        training={
            "engine": prepared.engine.name, "seed": prepared.config.train.seed, "epoch": epoch, "status": status,
            **_describe_targets(dataset, prepared.split.train),
        },
    )  # fmt: skip


def _describe_targets(dataset: Dataset, rows: Rows) -> dict[str, float]:
    """The range of the numbers that a regression was trained on."""
    if not dataset.is_regression:
        return {}
    targets = dataset.labels[rows]
    return {"target_low": float(targets.min()), "target_high": float(targets.max())}


def evaluate_outputs(bundle: Bundle, logits: NDArray[np.float32], labels: NDArray[Any], *, split: str) -> Evaluation:
    """Metrics of a model's outputs (n, K) under labels (n,): indices into its classes, or targets."""
    if bundle.class_names:
        found = evaluate_logits(logits, labels, class_names=bundle.class_names, temperature=bundle.temperature)
    else:
        found = evaluate_numbers(bundle.preprocess.restore_targets(logits[:, 0]), labels)
    return replace(found, split=split)


def add_calibration(
    bundle: Bundle, evaluation: Evaluation, logits: NDArray[np.float32], labels: NDArray[Any], *, fitted_here: bool
) -> Evaluation:
    """The same evaluation with whether its confidence is true (see `measure_calibration`); of a regression as it is."""
    if not bundle.class_names or not np.isfinite(logits).all():
        return evaluation
    found = measure_calibration(logits, labels, temperature=bundle.temperature, fitted_here=fitted_here)
    return replace(evaluation, calibration=found)


def judge(
    prepared: Prepared, result: FitResult, *, path: Path | None = None
) -> tuple[Run, dict[str, NDArray[np.float32]]]:
    """Evaluate every split once, by the model as it will be saved; on an accelerator or with others, by the engine.

    Returns the run, and the logits of each split's rows.
    """
    bundle = build_bundle(prepared, epoch=result.epoch, status=result.status)
    dataset, found, logits = prepared.dataset, {}, {}
    apart = prepared.engine.device != "cpu" or prepared.team.size > 1 or prepared.engine.partial
    with one_blas_thread():
        for name, rows in prepared.split.parts().items():
            logits[name] = prepared.engine.logits(rows) if apart else bundle.logits(dataset.images, rows=rows)
        if "valid" in logits and prepared.config.eval.calibrate and prepared.team.rank == 0:
            bundle = _calibrate(bundle, prepared, logits["valid"])
        for name, rows in prepared.split.parts().items():
            found[name] = evaluate_outputs(bundle, logits[name], dataset.labels[rows], split=name)
    last = list(found)[-1]
    truth = dataset.labels[prepared.split.parts()[last]]
    found[last] = add_calibration(bundle, found[last], logits[last], truth, fitted_here=last == "valid")
    run = Run(
        prepared.config, path, result.status, result.epoch, bundle, result.history, prepared.engine.name,
        found["train"], found.get("valid"), found.get("test"),
    )  # fmt: skip
    return run, logits


def _calibrate(bundle: Bundle, prepared: Prepared, logits: NDArray[np.float32]) -> Bundle:
    """The same model with what the validation rows tell: its temperature, and how far held-out pictures are from others."""
    dataset, split = prepared.dataset, prepared.split
    if not (np.isfinite(bundle.params).all() and np.isfinite(logits).all()):
        return bundle
    changes: dict[str, Any] = {}
    if bundle.class_names:
        labels = dataset.labels[split.valid]
        temperature = fit_temperature(logits, labels)
        scores = conformal_scores(logits, labels, temperature=temperature)
        changes = {"temperature": temperature, "scores": scores[::-1][:: -(-len(scores) // _MOST_SCORES)][::-1]}
    rng = np.random.default_rng([prepared.config.train.seed, 0xFA])
    training, held_out = (rng.permutation(rows)[:MOST_KNOWN] for rows in (split.train, split.valid))
    kept = prepared.engine.features
    found = [
        bundle.features(dataset.images, rows=rows) if kept is None else kept[rows].reshape(len(rows), -1)
        for rows in (training, held_out)
    ]
    known = remember(*found) if all(np.isfinite(values).all() for values in found) else None
    return replace(bundle, known=known, **changes)
