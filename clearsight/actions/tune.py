"""A search with its directory: what `clearsight tune` and `clearsight.tune` call. Made, locked, filled, resumed.

Every trial that has ended is a line of `trials.jsonl`; a search that was killed takes those lines up again. The best settings are
trained once more, on validation rows too, and only that model meets the test split.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from clearsight.actions.opening import open_directory
from clearsight.actions.train import train
from clearsight.config.build import build_config
from clearsight.config.files import check_count, find_differences, merge, read_config_file, render_toml
from clearsight.config.resolve import name_source, resolve_config
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.progress import Note, build_meter
from clearsight.data.dataset import VALID, Dataset
from clearsight.errors import Interrupted, RunError, UsageError
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import DATASET_KEYS, find_unused, load_again, load_given, refuse_flaws, refuse_place
from clearsight.pipeline.head import warm_features
from clearsight.pipeline.judge import Run
from clearsight.pipeline.prepare import resolve_source
from clearsight.pipeline.safety import refuse_unsafe
from clearsight.runs import store
from clearsight.runs.corrections import keep_corrections, use_own_corrections
from clearsight.runs.directory import RunDirectory
from clearsight.runs.record import ENDED, RunStatus
from clearsight.runs.trackers import check_trackers
from clearsight.search.executors import check_executor, open_pool
from clearsight.search.jobs import choose_metric, note_patience
from clearsight.search.journal import FileJournal, TrackedBoard, draw_pictures, render_csv
from clearsight.search.leaderboard import build_board, rank
from clearsight.search.loop import Board, Plan, Trial, find_best, find_ladder, run_search
from clearsight.search.space import Params, Space, parse_space, to_settings
from clearsight.search.strategies import choose_strategy

RECORD, TRIALS, BOARD = "search.json", "trials.jsonl", "leaderboard.csv"
BEST = "best"
DEFAULT_TRIALS = 40


@dataclass(frozen=True, eq=False)
class Tuned:
    """A search that has ended.

    Args:
        path: its directory. trials: in the order of their numbers. best: the complete one with the best mean.
        importance: the share of the scores' variation that each setting explains; empty where that is unclear.
        run: the best settings trained on training and validation rows and judged on test; None if that was not wanted.
    """

    path: Path
    plan: Plan
    trials: list[Trial]
    best: Trial
    importance: dict[str, float]
    run: Run | None

    def summary(self) -> dict[str, Any]:
        """The object that `tune --json` prints; its keys are a contract."""
        return {
            "search": str(self.path), "strategy": self.plan.strategy, "metric": self.plan.metric, "folds": self.plan.folds,
            "trials": [trial.as_dict() for trial in rank(self.trials, self.plan.metric)], "best": self.best.as_dict(),
            "importance": self.importance, "run": self.run.summary() if self.run else None,
        }  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """How a search is carried out, which changes nothing of what comes out."""

    workers: int | None
    executor: str
    root: Path
    retrain: bool
    quiet: bool
    note: Note


def tune(
    data: Any = None,
    labels: Any = None,
    *,
    search: dict[str, Any] | Sequence[str] | None = None,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    strategy: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    folds: int | None = None,
    prune: str = "none",
    metric: str | None = None,
    seed: int = 0,
    round_size: int | None = None,
    workers: int | None = None,
    executor: str = "auto",
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    retrain: bool = True,
    quiet: bool = True,
    note: Note = lambda text: None,
    track: Sequence[str] = (),
    **settings: Any,
) -> Tuned:
    """Search for settings, train the best anew, and judge that once on the test split.

    Args:
        data, labels, config, settings: as for `train`; a configuration file may hold a table `[search]`.
        search: what may vary, as `{"train.lr": {"log": [1e-4, 1]}, "train.l2": [0, 0.001]}` or as flags; see `parse_space`.
        strategy: `grid`, `random`, `perturb` (small changes of the best so far) or `tpe`; by default a grid where it has at most
            64 points, else TPE.
        trials: how many at most, 40 by default; a grid ends by itself.
        minutes: after which nothing new begins, but the best so far is trained to its end.
        folds: judge by k-fold cross-validation; by default by the one validation split.
        prune: `none`, `halving` or `hyperband`: leave trials off that are behind.
        metric: `accuracy`, `loss` or `mae`. seed: of what is tried; runs have `train.seed`.
        round_size: trials asked for together; results depend on it, and not on the number of workers.
        workers, executor: see `open_pool`.
        out, root, resume: as for `train`, of a search.
        retrain: False leaves the test split alone. track: as for `train`, each trial and the best.

    Raises:
        UsageError, DataError, RunError: see there.
    """
    way = _Way(workers, executor, Path(root), retrain, quiet, note)
    check_trackers(track)
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0):
        raise UsageError(f"--minutes must be a number above 0, got {minutes!r}. Leave it out for no limit.")
    check_count("--seed", seed, least=0)
    if resume is not None:
        own = (search, config, settings, strategy, trials, folds, metric, round_size, out, track)
        if any(value not in (None, {}, [], ()) for value in own) or seed or prune != "none":
            raise UsageError(
                "--resume must stand alone but for --minutes and how to compute, got more. Leave that out."
            )
        return _resume(store.find_directory(str(resume), way.root, RECORD), data, labels, way, minutes)
    settings = name_source(data, settings)
    config, space = _read_space(config, search)
    for flag, value, least in (("--trials", trials, 1), ("--folds", folds, 2), ("--round-size", round_size, 1)):
        if value is not None:
            check_count(flag, value, least=least)
    check_executor(executor, workers)
    meter, searched = build_meter(quiet=quiet), [choice.key for choice in space.choices]
    resolved = resolve_config(config, settings)
    resolved = resolve_family(resolved, data, note=note, meter=meter, searched=searched)
    size = resolved.preprocess.image_size  # one for all trials, whatever their networks and depths usually take
    resolved = resolve_config(resolved, {} if size is None else {"image_size": size})
    find_ladder(prune, resolved.train.epochs)
    check_space(resolved, space)
    check_used(resolve_final(resolved, {}, (1,)))
    name = choose_strategy(space, strategy)
    most = min(trials or len(space.points()), len(space.points())) if name == "grid" else trials or DEFAULT_TRIALS
    dataset = load_given(resolved, data, labels, meter=meter)
    resolved = resolve_config(resolved, resolve_source(resolved, dataset))
    refuse_place(out if out is not None else root, dataset.origin)
    judged = resolve_config(resolved, {"folds": folds} if folds else {})
    check_used(judged)
    plan = Plan(name, most, choose_metric(judged, dataset, metric), folds, prune, seed, round_size, minutes)
    variants = _vary_augmentation(judged, space)
    _tell_notes(variants, dataset, data, note)
    refuse_flaws(resolved, dataset, note=note)
    for variant in variants:
        refuse_unsafe(variant, dataset, note=note, meter=build_meter(quiet=quiet))
    about = {
        "status": RunStatus.RUNNING, "created": time.strftime("%Y-%m-%dT%H:%M:%S"), "fingerprint": dataset.fingerprint,
        "relabelled": dataset.relabelled, "track": tuple(track), "plan": asdict(plan), "search": space.describe(),
        "config": resolved.model_dump(mode="json", exclude_unset=True),
    }  # fmt: skip
    with open_directory(
        resolved, data=dataset.name, kind="tune", out=out, root=root, record=RECORD, about=about
    ) as path:
        keep_corrections(path, resolved, dataset.relabelled)
        return _search_in(path, dataset, resolved, space, plan, way, tuple(track))


def _read_space(config: Any, search: dict[str, Any] | Sequence[str] | None) -> tuple[Any, Space]:
    """The configuration without its table `[search]`, and what may vary by that table and by what was given beside it.

    Raises:
        UsageError: see `parse_space`.
    """
    search = [search] if isinstance(search, str) else search
    config = read_config_file(Path(config)) if isinstance(config, str | Path) else config
    table: Any = {}
    if isinstance(config, dict):
        table, config = config.get("search", {}), {key: value for key, value in config.items() if key != "search"}
    if not isinstance(table, dict):
        raise UsageError(f'[search] must be a table of settings, got {table!r}. For example "train.lr" = [0.01, 0.1].')
    flags = list(search) if isinstance(search, list | tuple) else []
    return config, parse_space(merge(table, search) if isinstance(search, dict) else table, flags)


def _tell_notes(variants: list[RunConfig], dataset: Dataset, data: Any, note: Note) -> None:
    """Tell what was assumed about the data, and which choices none of the variants uses."""
    unused, *others = [find_unused(variant, dataset, data) for variant in variants]
    for text in (*dataset.notes, *(text for text in unused if all(text in other for other in others))):
        note(text)


def check_space(config: RunConfig, space: Space) -> None:
    """Refuse what cannot be searched, before anything is read or trained.

    Raises:
        UsageError: a value that its setting cannot take, or a setting that would make trials answer different questions.
    """
    base = config.model_dump(exclude_unset=True)
    for choice in space.choices:
        if choice.key == "train.seed":
            raise UsageError(
                "a search must not choose among seeds, which are luck, got train.seed. Use --folds, or take it out."
            )
        if choice.key in DATASET_KEYS or (choice.key.startswith("data.") and choice.key != "data.train_fraction"):
            raise UsageError(
                f"a search must leave the pictures and their splits as they are, got {choice.key}. Compare such settings with "
                "`clearsight compare`."
            )
        for value in choice.values:
            build_config(merge(base, to_settings({choice.key: value})), where="the search")


def _vary_augmentation(config: RunConfig, space: Space) -> list[RunConfig]:
    """The settings common to all trials, and those with each of the augmentations that are searched, one at a time."""
    base = config.model_dump(exclude_unset=True)
    varied = [choice for choice in space.choices if choice.key.startswith("augment.")]
    wanted = [to_settings({choice.key: value}) for choice in varied for value in choice.values]
    return [build_config(merge(base, settings)) for settings in ({}, *wanted)]


def _resume(path: Path, data: Any, labels: Any, way: _Way, minutes: float | None) -> Tuned:
    with store.lock_run(path):
        record = store.read_json(path / RECORD)
        try:
            config = build_config(record["config"], where=str(path / RECORD))
            space, plan = (
                parse_space(record["search"], []),
                replace(TypeAdapter(Plan).validate_python(record["plan"]), minutes=minutes),
            )
            track = tuple(record["track"])
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise RunError(
                f"{path / RECORD} must be as it was written, got damage ({error}). Start a new search."
            ) from None
        if way.retrain and record.get("status") == "finished" and RunDirectory(path / BEST).record.is_file():
            raise UsageError(
                f"--resume must name a search that has not ended, got {path}. Its best model is in {path / BEST}."
            )
        meter = build_meter(quiet=way.quiet)
        own = use_own_corrections(path, config, record.get("relabelled"))
        dataset = load_again(own, data, labels, fingerprint=record.get("fingerprint"), meter=meter)
        return _search_in(path, dataset, config, space, plan, way, track)


def _search_in(
    path: Path, dataset: Dataset, config: RunConfig, space: Space, plan: Plan, way: _Way, track: tuple[str, ...]
) -> Tuned:
    """Search in a directory that the caller has locked, draw, train the best, and keep the record up to date."""
    try:
        tuned = _search(path, dataset, config, space, plan, way, track)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
        if isinstance(error, UsageError) and not (path / TRIALS).exists():
            _write_status(path, status=RunStatus.PREPARING)  # nothing was done, so nothing is to be left
            raise
        _write_status(path, status="interrupted" if stopped else "failed")
        if stopped:
            way.note(f"the search is saved; go on with `clearsight tune --resume {path}`")
        raise
    _write_status(
        path, status="finished" if len(tuned.trials) == plan.trials else "out of time", best=tuned.best.as_dict()
    )
    return tuned


def _write_status(path: Path, **changes: Any) -> None:
    store.write_json(path / RECORD, store.read_json(path / RECORD) | changes)


def _search(
    path: Path, dataset: Dataset, config: RunConfig, space: Space, plan: Plan, way: _Way, track: tuple[str, ...]
) -> Tuned:
    base = config.model_dump(exclude_unset=True)
    values = [to_settings({choice.key: value}) for choice in space.choices for value in choice.values]
    configs = [config, *(build_config(merge(base, settings)) for settings in values)]
    note_patience(configs, way.note)
    board: Board = build_board(quiet=way.quiet)
    if track:
        board = TrackedBoard(board, path, track, way.note)
    for one in {(one.depth, one.model, one.preprocess): one for one in configs}.values():
        warm_features(one, dataset, meter=build_meter(quiet=way.quiet), note=way.note, runs=plan.trials)
    with open_pool(dataset, configs, executor=way.executor, workers=way.workers) as pool:
        try:
            trials, importance = run_search(
                config, space, plan, pool=pool, journal=FileJournal(path / TRIALS), board=board, note=way.note
            )
        finally:
            board.close()
    if len(trials) < plan.trials:
        way.note(
            f"time ran out after {len(trials)} of {plan.trials} trials; go on with `clearsight tune --resume {path}`"
        )
    best = find_best(trials, plan.metric)
    store.write_text(path / BOARD, render_csv(trials, space, plan.metric))
    draw_pictures(path, trials, space, plan, importance)
    final = resolve_final(config, best.params, best.epochs)
    store.write_text(path / f"{BEST}.toml", render_toml(final))
    run = _train_best(path, dataset, final, way, track) if way.retrain else None
    return Tuned(path, plan, trials, best, importance, run)


def _train_best(path: Path, dataset: Dataset, config: RunConfig, way: _Way, track: tuple[str, ...]) -> Run | None:
    """The run of the best settings: trained now, or gone on with; None where these settings were trained before."""
    if bool((dataset.given == VALID).any()):
        way.note("the data brings its own validation rows, which are not used in the last training")
    way.note(
        "the best model is also trained on the validation rows, so none are left to scale its confidence or to "
        "recognise unusual pictures"
    )
    places = (path / (BEST if number == 1 else f"{BEST}-{number}") for number in count(1))
    folder = next(place for place in places if not _holds_another(place, config))
    if not RunDirectory(folder).record.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # begun, and killed before it had a record
        config = use_own_corrections(path, config, dataset.relabelled)
        told = find_unused(config, dataset, dataset)  # before the search, as far as it was chosen

        def note(text: str) -> None:
            if text not in told:
                way.note(text)

        return train(dataset, config=config, out=folder, root=way.root, quiet=way.quiet, note=note, track=track)
    if store.read_json(RunDirectory(folder).record).get("status") in ENDED:
        way.note(f"the best was trained before, in {folder}")
        return None
    return train(dataset, resume=folder, root=way.root, quiet=way.quiet, note=way.note)


def _holds_another(folder: Path, config: RunConfig) -> bool:
    """Whether a run of other settings lies there: the best of a search that then went on."""
    if not RunDirectory(folder).record.is_file():
        return False
    saved = store.read_run_config(folder)
    same = saved.change("data", relabel=config.data.relabel)  # a copy of the same, of the same data
    return bool(find_differences(same, config))


def resolve_final(config: RunConfig, params: Params, epochs: tuple[int, ...]) -> RunConfig:
    """The best settings for all rows that are not for test, for as long as the trials were at their best.

    Args:
        params: the best settings. epochs: whose weights were the best, one a fold, for runs that stop early.
    """
    changes: dict[str, Any] = {"data": {"valid_fraction": 0.0, "folds": None, "fold": 0, "fold_seed": 0}}
    if config.data.train_per_class is not None:
        per_class = config.data.train_per_class + config.data.valid_per_class
        changes = {"data": {"train_per_class": per_class, "valid_per_class": 0}}
    chosen = merge(config.model_dump(exclude_unset=True), to_settings(params))
    if build_config(chosen).train.patience is not None:
        middle = sorted(epochs)[len(epochs) // 2]
        changes["train"] = {"epochs": max(middle, 1), "patience": None, "monitor": "valid_loss"}
    return build_config(merge(chosen, changes))
