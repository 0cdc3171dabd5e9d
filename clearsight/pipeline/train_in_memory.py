"""A whole run without a directory: for the scikit-learn estimator, recipes, the doctor and tests."""

from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset
from clearsight.diagnose.case import Case
from clearsight.errors import DivergedError
from clearsight.pipeline.case import build_run_case
from clearsight.pipeline.judge import Run, judge
from clearsight.pipeline.prepare import fit_prepared, prepare, probe_prepared


def train_dataset(config: RunConfig, dataset: Dataset) -> Run:
    """Train and evaluate in memory: no run directory, no progress.

    Raises:
        UsageError, DataError: see `prepare`. DivergedError: the loss became NaN.
    """
    prepared = prepare(config, dataset)
    result = fit_prepared(prepared)
    run, _ = judge(prepared, result)
    if result.problem:
        raise DivergedError(result.problem, run)
    return run


def train_case(config: RunConfig, dataset: Dataset, *, begun: bool = False, hidden: tuple[str, ...] = ()) -> Case:
    """Train in memory, and what the doctor sees of it; a training that diverges has a case too.

    Args:
        begun: see `prepare`. hidden: splits that the case must not know.

    Raises:
        UsageError, DataError: see `prepare`.
    """
    prepared = prepare(config, dataset, begun=begun)
    result = fit_prepared(prepared, probe=True)
    run, _ = judge(prepared, result)
    shown = {name: found for name, found in run.evaluations().items() if name not in hidden}
    return build_run_case(prepared, result, shown, last=probe_prepared(prepared))
