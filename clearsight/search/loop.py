"""The loop of a search: ask for a round, train it on all workers, drop the hopeless early, tell what came out.

Trials go by their numbers, and what is asked for depends on what was told alone; so a search that is begun again asks for the
same trials, takes those that its journal holds, and computes the others. It must not know files or who watches.
"""

import time
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite
from typing import Any, Protocol

import numpy as np

from clearsight.config.files import merge
from clearsight.config.schema import RunConfig
from clearsight.core.intervals import mean_interval, wilson_interval
from clearsight.core.progress import Note
from clearsight.errors import RunError, UsageError
from clearsight.search.executors import Pool
from clearsight.search.jobs import METRICS, Job, Outcome
from clearsight.search.space import Params, Space, render_params, to_settings
from clearsight.search.strategies import ROUNDS, Asker

_NOTHING = (0, 0.0)  # how good a trial is that has not trained at all: worse than any that has
PRUNERS = ("none", "halving", "hyperband")
ETA = 3  # of the pruners: at each rung a third goes on, for three times as long
_RUNGS = 4
COMPLETE, PRUNED, DIVERGED = "complete", "pruned", "diverged"


@dataclass(frozen=True)
class Plan:
    """How a search goes.

    Args:
        strategy, prune: see `STRATEGIES`, `PRUNERS`. trials: how many; of a grid at most its points.
        folds: of a cross-validation; None for the one validation split.
        metric: of `METRICS`. seed: of what is tried. round_size: trials asked for together; None for the strategy's usual number.
        minutes: after which nothing new begins; None for no limit.
    """

    strategy: str
    trials: int
    metric: str
    folds: int | None = None
    prune: str = "none"
    seed: int = 0
    round_size: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Trial:
    """What came of one choice of settings.

    Args:
        scores: the metric on each fold's validation rows; score: their mean. low, high: its 95 % interval: over folds with the
            correction for shared rows, of one split that of a share; None where there is none.
        rungs: the mean at each rung of pruning and at the end. epochs: whose weights were judged, one a fold.
        n: judged rows a fold, num_train: rows trained on. seconds: of training, all folds.
    """

    number: int
    params: Params
    status: str
    score: float
    low: float | None
    high: float | None
    scores: tuple[float, ...]
    rungs: tuple[float, ...]
    epochs: tuple[int, ...]
    n: int
    num_train: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Journal(Protocol):
    """Keeps the trials that have ended."""

    def find(self, number: int) -> Trial | None:
        """The trial of a number, if it has ended."""

    def add(self, trial: Trial) -> None:
        """Keep one more, for good."""


class Board(Protocol):
    """Told how a search goes."""

    def begin(self, *, total: int, metric: str, deadline: float | None) -> None:
        """A search of so many trials begins."""

    def advance(self) -> None:
        """One run has ended."""

    def add(self, trial: Trial, *, again: bool = False) -> None:
        """A trial has ended; `again` where that was so before this search was resumed."""

    def close(self) -> None:
        """The search is over."""


def run_search(
    config: RunConfig,
    space: Space,
    plan: Plan,
    *,
    pool: Pool,
    journal: Journal,
    board: Board,
    note: Note = lambda text: None,
) -> tuple[list[Trial], dict[str, float]]:
    """All trials in the order of their numbers, and how much each setting matters.

    Where time runs out before any trial came to its end, the best so far is trained to its end all the same.

    Raises:
        UsageError: settings that do not go together in some trial. RunError: a worker died twice, or the journal is another's.
    """
    if plan.prune != "none" and any(choice.key == "train.epochs" for choice in space.choices):
        raise UsageError(
            "--prune must go with one number of epochs, got train.epochs in the search. Take it out, or --prune none."
        )
    asker = Asker(
        space, strategy=plan.strategy, seed=plan.seed, base=_find_base(config, space), maximize=METRICS[plan.metric] > 0
    )
    total = plan.trials
    size = plan.round_size or ROUNDS.get(plan.strategy, total)
    deadline = None if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    trials: list[Trial] = []
    board.begin(total=total, metric=plan.metric, deadline=deadline)
    number = 0
    rounds: list[_Round] = []
    for turn in range(-(-total // size)):
        if turn and deadline and time.monotonic() > deadline and journal.find(number) is None:
            break
        asked = dict(enumerate(asker.ask(turn, min(size, total - number)), start=number))
        number += len(asked)
        found: dict[int, Trial] = {}
        rounds = [
            _Round(config, plan, some, ladder, pool, journal, board, deadline)
            for ladder, some in find_brackets(plan, config.train.epochs, asked)
        ]
        for one in rounds:
            found |= one.run()
        trials += [found[number] for number in sorted(found)]
        if len(found) < len(asked):
            break
        asker.tell([_summarize(found[k]) for k in asked])
    if not any(trial.status == COMPLETE for trial in trials):
        trials = sorted(trials + _finish_best(rounds, note), key=lambda trial: trial.number)
    return trials, asker.measure_importance()


def _finish_best(rounds: list["_Round"], note: Note) -> list[Trial]:
    """Train the best of the trials that time cut off to its end; where it diverges the next, until one is complete."""
    left = [(rank, number, one) for one in rounds for number, rank in one.find_left().items()]
    ended: list[Trial] = []
    for rank, number, one in sorted(left, key=lambda item: item[:2]):
        which = "the best so far" if rank < _NOTHING else "the next, as none has begun"
        note(f"time ran out before any trial was complete; {which}, trial {number}, now trains to the end")
        ended.append(one.finish(number))
        if ended[-1].status == COMPLETE:
            break
    return ended


def _summarize(trial: Trial) -> tuple[Params, float | None, list[float]]:
    on_the_way = list(trial.rungs) if trial.status != DIVERGED else []
    return trial.params, trial.score if trial.status == COMPLETE else None, on_the_way


def _find_base(config: RunConfig, space: Space) -> Params:
    found = {}
    for choice in space.choices:
        section, _, name = choice.key.partition(".")
        value = config.lr if choice.key == "train.lr" else getattr(getattr(config, section), name)
        found[choice.key] = config.hidden if choice.key == "model.hidden" else value
    return found


def find_ladder(prune: str, epochs: int) -> list[int | None]:
    """Epochs after which trials are compared, None for the end."""
    if prune not in PRUNERS:
        raise UsageError(f"--prune must be one of {', '.join(PRUNERS)}, got {prune!r}. Choose one of them.")
    if prune == "none":
        return [None]
    return [*sorted({max(1, round(epochs / ETA**k)) for k in range(1, _RUNGS)} - {epochs}), None]


def find_brackets(
    plan: Plan, epochs: int, asked: dict[int, Params]
) -> list[tuple[list[int | None], dict[int, Params]]]:
    """The trials of a round by the ladder that they climb, each against those on the same one.

    Successive halving (Jamieson & Talwalkar 2016) has one, which begins at the lowest of four rungs; Hyperband (Li et al. 2018)
    deals trials out in turn to ladders that begin at each of the rungs, so that settings that start slowly have a chance.
    """
    ladder = find_ladder(plan.prune, epochs)
    if plan.prune != "hyperband":
        return [(ladder, asked)]
    count = len(ladder)
    dealt = [(ladder[k:], {n: p for n, p in asked.items() if n % count == k}) for k in range(count)]
    return [(rungs, some) for rungs, some in dealt if some]


class _Round:
    """Some trials, trained side by side from rung to rung."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        asked: dict[int, Params],
        ladder: list[int | None],
        pool: Pool,
        journal: Journal,
        board: Board,
        deadline: float | None,
    ) -> None:
        self._base, self._plan, self._asked, self._ladder = config.model_dump(exclude_unset=True), plan, asked, ladder
        self._pool, self._journal, self._board, self._deadline = pool, journal, board, deadline
        self._folds = plan.folds or 1
        self._last: dict[int, Outcome] = {}  # of each run, by trial * folds + fold
        self._rungs: dict[int, list[float]] = {number: [] for number in asked}
        self._ended: dict[int, Trial] = {}
        self._late = False  # whether time has run out and the best is trained to its end
        self._known = {number: trial for number in asked if (trial := journal.find(number))}
        for number, trial in self._known.items():
            if to_settings(trial.params) != to_settings(asked[number]):
                raise RunError(
                    f"the journal must be of this search, got trial {number} with {render_params(trial.params)} where "
                    f"{render_params(asked[number])} is asked for. Start a new search."
                )
            self._board.add(trial, again=True)

    def run(self) -> dict[int, Trial]:
        """Trials that ended, by number; not all, if time ran out."""
        found = self._ended
        alive = list(self._asked)
        for rung, epochs in enumerate(self._ladder):
            last = epochs is None
            scores = self._train(alive, epochs, rung, last, found)
            if any(number not in scores and number not in found for number in alive):
                break  # time ran out: to prune now would be to compare with those that happened to be done
            alive = [number for number in alive if number not in found]
            if not last:
                sign = METRICS[self._plan.metric]
                ranked = sorted(alive, key=lambda number: (-sign * scores[number], number))
                for number in sorted(ranked[ceil(len(ranked) / ETA) :]):
                    found[number] = self._end(number, PRUNED)
                alive = [number for number in alive if number not in found]
        return dict(sorted((self._known | found).items()))

    def find_left(self) -> dict[int, tuple[float, float]]:
        """The trials that time cut off, by number, with how good they are: the less the better, more epochs before all else."""
        sign = METRICS[self._plan.metric]
        left = [number for number in self._asked if number not in self._ended and number not in self._known]
        reached = {number: self._ladder[len(self._rungs[number]) - 1] or 0 for number in left if self._rungs[number]}
        return {n: (-reached[n], -sign * self._rungs[n][-1]) if n in reached else _NOTHING for n in left}

    def finish(self, number: int) -> Trial:
        """Train one trial that time cut off to its end, however long that takes.

        The journal is not told, so that a search that goes on prunes as if it had never been cut off.
        """
        self._deadline, self._late = None, True
        for rung in range(len(self._rungs[number]), len(self._ladder)):
            if number not in self._ended:
                self._train([number], self._ladder[rung], rung, self._ladder[rung] is None, self._ended)
        return self._ended[number]

    def _train(
        self, alive: list[int], epochs: int | None, rung: int, last: bool, found: dict[int, Trial]
    ) -> dict[int, float]:
        """Scores at a rung; trials that diverged, or came to the end, are added to `found`. Late ones are missing."""
        scores: dict[int, float] = {}
        jobs: dict[int, Job] = {}
        for number in alive:
            if number not in self._known:
                jobs |= {key: self._build_job(number, key, epochs) for key in self._keys(number) if self._goes_on(key)}
                continue
            trial = self._known[number]
            if rung < len(trial.rungs):
                scores[number] = trial.rungs[rung]
            if last or (trial.status == DIVERGED and rung == len(trial.rungs) - 1):
                found[number] = trial
        left = {number: sum(key in jobs for key in self._keys(number)) for number in alive if number not in self._known}
        for number in [number for number, count in left.items() if count == 0]:  # all of its runs stopped early
            self._settle(number, last, scores, found)
        try:
            for key, outcome in self._pool.run(jobs, deadline=self._deadline):
                number = key // self._folds
                self._last[key] = outcome
                left[number] -= 1
                self._board.advance()
                if left[number] == 0:
                    self._settle(number, last, scores, found)
        except UsageError as error:
            raise UsageError(f"a trial must be a run that can be, got: {error}") from None
        return scores

    def _settle(self, number: int, last: bool, scores: dict[int, float], found: dict[int, Trial]) -> None:
        """Note the score of a trial whose runs have come to the rung, and end the trial if it is over."""
        scores[number] = self._score(number)
        if not isfinite(scores[number]) or any(one.status == DIVERGED for one in self._outcomes(number)):
            found[number] = self._end(number, DIVERGED)
        elif last:
            found[number] = self._end(number, COMPLETE)

    def _keys(self, number: int) -> range:
        """The runs of a trial, one a fold."""
        return range(number * self._folds, (number + 1) * self._folds)

    def _goes_on(self, key: int) -> bool:
        """Whether a run has yet to come to a rung: it is new, or left off at the last one."""
        return key not in self._last or self._last[key].saved is not None

    def _build_job(self, number: int, key: int, epochs: int | None) -> Job:
        before, fold = self._last.get(key), key % self._folds
        settings = merge(self._base, to_settings(self._asked[number]))
        if self._plan.folds:
            settings = merge(settings, {"data": {"folds": self._plan.folds, "fold": fold}})
        return Job(settings, start=before.saved if before else None, pause_epoch=epochs)

    def _outcomes(self, number: int) -> list[Outcome]:
        return [self._last[key] for key in self._keys(number)]

    def _score(self, number: int) -> float:
        values = [one.metrics[self._plan.metric] for one in self._outcomes(number)]
        self._rungs[number].append(float(np.mean(values)))
        return self._rungs[number][-1]

    def _end(self, number: int, status: str) -> Trial:
        if number in self._known:
            return self._known[number]
        outcomes = self._outcomes(number)
        scores = tuple(one.metrics[self._plan.metric] for one in outcomes)
        low, high = find_interval(outcomes, self._plan.metric)
        trial = Trial(
            number, self._asked[number], status, float(np.mean(scores)), low, high, scores, tuple(self._rungs[number]),
            tuple(one.epoch for one in outcomes), outcomes[0].n, outcomes[0].num_train, sum(one.seconds for one in outcomes),
        )  # fmt: skip
        for key in self._keys(number):
            self._last[key] = replace(self._last[key], saved=None)
        if not self._late:
            self._journal.add(trial)
        self._board.add(trial)
        return trial


def find_interval(outcomes: list[Outcome], metric: str) -> tuple[float | None, float | None]:
    """95 % interval of the mean over folds, or of the accuracy on one split."""
    values = tuple(one.metrics[metric] for one in outcomes)
    if len(values) > 1:
        ratio = sum(one.n for one in outcomes) / sum(one.num_train for one in outcomes)
        return mean_interval(values, most=1.0 if metric == "accuracy" else np.inf, ratio=ratio)
    if metric == "accuracy":
        return wilson_interval(round(values[0] * outcomes[0].n), outcomes[0].n)
    return None, None


def find_best(trials: list[Trial], metric: str) -> Trial:
    """The complete trial with the best mean; of equal ones the first.

    Raises:
        RunError: none is complete.
    """
    done = [trial for trial in trials if trial.status == COMPLETE]
    if not done:
        raise RunError(
            "a search must have a trial that came to its end, got none. Lower the learning rates, or give it more time."
        )
    return max(done, key=lambda trial: (METRICS[metric] * trial.score, -trial.number))
