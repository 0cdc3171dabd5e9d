"""A whole run without a directory: for the scikit-learn estimator, recipes and tests."""

from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset
from clearsight.errors import DivergedError
from clearsight.pipeline.judge import Run, judge
from clearsight.pipeline.prepare import fit_prepared, prepare


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
