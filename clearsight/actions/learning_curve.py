"""Learning curves: the same recipe on growing shares of the training rows. It must not know how they are drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.config.schema import RunConfig
from clearsight.core.intervals import mean_interval
from clearsight.core.progress import MeterBuilder
from clearsight.diagnose.floors import find_floor
from clearsight.errors import DivergedError, UsageError
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import build_split, find_unused, load_dataset
from clearsight.pipeline.judge import build_bundle, evaluate_outputs
from clearsight.pipeline.prepare import fit_prepared, prepare


@dataclass(frozen=True, eq=False)
class Curve:
    """Errors over the number of training rows.

    Args:
        sizes: (k,) rows. errors: by split, (k, seeds): wrong answers in per cent, or the mean absolute error of numbers.
        what: name and unit of the error. floor: the best possible one in that unit, None where nobody knows.
        notes: what was assumed about the data.
    """

    sizes: NDArray[np.float64]
    errors: dict[str, NDArray[np.float64]]
    what: str
    floor: float | None
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """For each size the errors by split: `mean`, and `low`, `high`, the 95 % interval of the mean over the seeds."""
        found = []
        for k, size in enumerate(self.sizes):
            cells = {}
            for split, values in self.errors.items():
                low, high = mean_interval(tuple(values[k].tolist()), most=100.0 if "%" in self.what else float("inf"))
                cells[split] = {"mean": float(values[k].mean()), "low": low, "high": high}
            found.append({"size": int(size), "errors": cells})
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        seeds = next(iter(self.errors.values())).shape[1]
        return {"what": self.what, "floor": self.floor, "seeds": seeds, "rows": self.rows()}


def measure_curve(config: RunConfig, *, shares: list[float], seeds: int, meter: MeterBuilder) -> Curve:
    """Train on each share of the training rows with seeds 0, 1, ...; errors on those rows and on all of validation.

    Raises:
        UsageError: shares that do not rise within (0, 1], or no validation rows.
    """
    if not shares or sorted(set(shares)) != shares or not all(0 < share <= 1 for share in shares):
        raise UsageError(f"--shares must rise, above 0 and up to 1, got {shares}. For example 0.1,0.3,1.")
    if config.data.train_fraction != 1:
        raise UsageError(
            f"--shares must stand alone, got data.train_fraction {config.data.train_fraction:g} beside it. Leave that out."
        )
    said: list[str] = []
    config = resolve_family(config, note=said.append, meter=meter)
    dataset = load_dataset(config, meter=meter)
    if len(build_split(config, dataset).valid) == 0:
        raise UsageError("a learning curve must have validation rows, got none. Set --set data.valid_fraction=0.1.")
    sizes, errors = [], {split: np.zeros((len(shares), seeds)) for split in ("train", "valid")}
    with meter("training", len(shares) * seeds) as advance:
        for k, share in enumerate(shares):
            for seed in range(seeds):
                settings = {"data": {"train_fraction": share}, "train": {"seed": seed}}
                prepared = prepare(build_config(merge(config.model_dump(exclude_unset=True), settings)), dataset)
                result = fit_prepared(prepared, validate=False)
                if result.problem:
                    raise DivergedError(f"{result.problem} That was at a share of {share:g}, seed {seed}.", None)
                bundle = build_bundle(prepared, epoch=result.epoch, status=result.status)
                for split, found in errors.items():
                    rows = prepared.split.parts()[split]
                    judged = evaluate_outputs(bundle, prepared.engine.logits(rows), dataset.labels[rows], split=split)
                    found[k, seed] = judged.mae if judged.accuracy is None else 100 * (1 - judged.accuracy)
                advance(1)
            sizes.append(len(prepared.split.train))
    floor, _ = find_floor(dataset.name, config.eval.floor)
    what = "mean absolute error" if dataset.is_regression else "error (%)"
    per_cent = None if floor is None or dataset.is_regression else 100 * floor
    notes = (*said, *dataset.notes, *find_unused(config, dataset), *prepared.notes)
    return Curve(np.array(sizes, np.float64), errors, what, per_cent, notes)
