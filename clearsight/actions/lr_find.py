"""Looking for a learning rate: what `clearsight lr-find` calls."""

from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, Note
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import find_unused, load_dataset
from clearsight.pipeline.prepare import prepare, search_rate
from clearsight.training.lr_finder import RateSearch


def load_and_search(
    config: RunConfig, *, low: float, high: float, steps: int, note: Note, meter: MeterBuilder
) -> tuple[RateSearch, tuple[str, ...]]:
    """Look for a learning rate for the data and network of a configuration; also what was assumed about the data.

    Raises:
        UsageError, DataError: see `prepare` and `find_lr`.
    """
    config = resolve_family(config, note=note, meter=meter)
    dataset = load_dataset(config, meter=meter)
    prepared = prepare(config.change("train", lr=None), dataset)  # so that none is looked for on the way
    found = search_rate(prepared, low=low, high=high, steps=steps, note=note)
    return found, (*dataset.notes, *find_unused(config, dataset), *prepared.notes)
