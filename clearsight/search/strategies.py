"""Which settings to try next: a grid, at random, by small changes of the best so far, or by TPE.

A round is asked for as a whole and told about as a whole, in the order of its trials, and each has a seed of its own. So trials
depend on the seed and on results alone, not on how many workers there are or when the search was last interrupted. It must not
know training.
"""

import warnings
from typing import Any

import numpy as np

from clearsight.errors import UsageError
from clearsight.search.space import Choice, Params, Space

STRATEGIES = ("grid", "random", "perturb", "tpe")
ROUNDS = {"random": 32, "perturb": 8, "tpe": 8}
_FEW_POINTS = 64  # up to here a space of lists is searched to the end
_STEP = 0.2  # of perturb: deviation of a change, as a share of the (logarithmic) width
_WARM_UP = 10  # of TPE: trials at random first


def choose_strategy(space: Space, wanted: str | None) -> str:
    """The wanted one, or grid where it is small and TPE elsewhere.

    Raises:
        UsageError: an unknown one.
    """
    if wanted is not None and wanted not in STRATEGIES:
        raise UsageError(f"--strategy must be one of {', '.join(STRATEGIES)}, got {wanted!r}. Choose one of them.")
    return wanted or ("grid" if space.most_points <= _FEW_POINTS else "tpe")


class Asker:
    """Asks for and is told about trials through Optuna.

    Args:
        space: what may vary. strategy: of `STRATEGIES`. seed: of all that is drawn.
        base: the value that each setting has without a search, where perturb begins.
        maximize: whether more is better.

    Raises:
        UsageError: Optuna is missing; a grid over ranges.
    """

    def __init__(self, space: Space, *, strategy: str, seed: int, base: Params, maximize: bool) -> None:
        self._optuna = _import_optuna()
        self._space, self._strategy, self._seed, self._maximize = space, strategy, seed, maximize
        self._points = space.points() if strategy == "grid" else []
        self._study = self._optuna.create_study(direction="maximize" if maximize else "minimize")
        self._best: tuple[float, Params] | None = None
        self._base = {choice.key: _first_value(choice, base.get(choice.key)) for choice in space.choices}
        self._asked: list[Any] = []

    def ask(self, number: int, count: int) -> list[Params]:
        """Settings of up to `count` trials of round `number`, the first of which is 0."""
        self._study.sampler = self._build_sampler(number)
        rng = np.random.default_rng([self._seed, number, 0x7E57])
        first = len(self._study.trials)
        if self._strategy == "grid":
            fixed: list[Params | None] = list(self._points[first : first + count])
        elif self._strategy == "perturb":
            fixed = [self._base if first + k == 0 else self._perturb(rng) for k in range(count)]
        else:
            fixed = [None] * count
        self._asked, found = [], []
        for params in fixed:
            if params is not None:
                self._study.enqueue_trial(
                    {choice.key: _encode(choice, params) for choice in self._space.choices if choice.key in params}
                )
            trial = self._study.ask()
            self._asked.append(trial)
            found.append(_suggest(trial, self._space))
        return found

    def tell(self, results: list[tuple[Params, float | None, list[float]]]) -> None:
        """The results of the trials asked for last, in their order.

        Args:
            results: settings, score (None where a trial was not trained to the end), and the scores on the way.
        """
        from optuna.trial import TrialState

        for trial, (params, score, steps) in zip(self._asked, results, strict=True):
            for step, value in enumerate(steps):
                trial.report(value, step)
            if score is None:
                self._study.tell(trial, state=TrialState.PRUNED if steps else TrialState.FAIL)
                continue
            self._study.tell(trial, score)
            if self._best is None or (score > self._best[0] if self._maximize else score < self._best[0]):
                self._best = score, params

    def measure_importance(self) -> dict[str, float]:
        """The share of variation that each setting explains (fANOVA, Hutter et al. 2014), largest first; empty if unclear."""
        done = [t for t in self._study.trials if t.state.name == "COMPLETE"]
        if len(done) < 4 or len({t.value for t in done}) < 2:
            return {}
        evaluator = self._optuna.importance.FanovaImportanceEvaluator(seed=self._seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self._optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            except (ValueError, RuntimeError):  # no setting was in all trials
                return {}
        return {key: float(value) for key, value in found.items()}

    def _build_sampler(self, number: int) -> Any:
        seed = int(np.random.default_rng([self._seed, number]).integers(2**31))
        if self._strategy == "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that lying about running trials is experimental
                return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=_WARM_UP, constant_liar=True)
        return self._optuna.samplers.RandomSampler(seed=seed)

    def _perturb(self, rng: np.random.Generator) -> Params:
        best = self._base if self._best is None else self._base | self._best[1]
        moved = rng.random(len(self._space.choices)) < 0.5
        moved[rng.integers(len(moved))] = True
        found: Params = {}
        for choice, move in zip(self._space.choices, moved, strict=True):
            if choice.applies(found):
                found[choice.key] = _move(choice, best[choice.key], rng) if move else best[choice.key]
        return found


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "a search must have Optuna, got none installed. Install it with `pip install 'clearsight[tune]'`."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _suggest(trial: Any, space: Space) -> Params:
    found: Params = {}
    for choice in space.choices:
        if not choice.applies(found):
            continue
        if choice.kind == "values":
            found[choice.key] = choice.values[trial.suggest_categorical(choice.key, list(range(len(choice.values))))]
            continue
        low, high = choice.values
        suggest = trial.suggest_int if "int" in choice.kind else trial.suggest_float
        found[choice.key] = suggest(choice.key, low, high, log="log" in choice.kind)
    return found


def _encode(choice: Choice, params: Params) -> Any:
    value = params[choice.key]
    return choice.values.index(value) if choice.kind == "values" else value


def _first_value(choice: Choice, own: Any) -> Any:
    """The value to begin with: that of the configuration where it is in the space, else the first or the middle."""
    if choice.kind == "values":
        return own if own in choice.values else choice.values[0]
    low, high = choice.values
    if isinstance(own, int | float) and low <= own <= high:
        return own
    middle = float(np.sqrt(low * high)) if "log" in choice.kind else (low + high) / 2
    return round(middle) if "int" in choice.kind else middle


def _move(choice: Choice, value: Any, rng: np.random.Generator) -> Any:
    """A near value: the next or last of a list of numbers, another of other lists, a normal step within a range."""
    if choice.kind == "values":
        if len(choice.values) == 1:
            return value
        at = choice.values.index(value)
        if all(isinstance(v, int | float) for v in choice.values):
            step = 1 if at == 0 else -1 if at == len(choice.values) - 1 else int(rng.choice([-1, 1]))
            return choice.values[at + step]
        return choice.values[(at + int(rng.integers(1, len(choice.values)))) % len(choice.values)]
    low, high = choice.values
    if "log" in choice.kind:
        width = np.log(high / low)
        moved = float(value * np.exp(rng.normal(0, _STEP) * width))
    else:
        moved = float(value + rng.normal(0, _STEP) * (high - low))
    moved = min(max(moved, low), high)
    return round(moved) if "int" in choice.kind else moved
