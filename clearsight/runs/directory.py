"""Where everything lies in a run directory: the only place that knows the names of its files."""

from pathlib import Path

from clearsight.bundle.archive import RUN_MODEL, RUN_RECORD


class RunDirectory:
    """The files of a run. None need exist yet; `store` says which a run has at which time.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / ".lock"
        self.record = path / RUN_RECORD  # how it stands, its configuration, its data
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.safety = path / "safety.json"  # verdicts on its augmentation
        self.corrections = path / "corrections.csv"  # of labels, as the run began with them
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.series = path / "series"  # models that were kept on the way
        self.probes = path / "signals.json"  # of its layers, before training and after
        self.model = path / RUN_MODEL
        self.metrics = path / "metrics.json"
        self.epochs = path / "history.csv"
        self.steps = path / "steps.csv"
        self.shown = path / "shown.safetensors"  # what the report draws
        self.seen = path / "seen.safetensors"  # hashes of the pictures that were trained or chosen on
        self.report = path / "report.html"

    @property
    def before_record(self) -> tuple[Path, ...]:
        """What may lie there before the record, so that a folder that holds no more may still become a run."""
        return self.lock, self.config, self.environment, self.safety, self.corrections
