"""Is A better than B? Two models on one test set, or recipes over many paired runs: what `clearsight compare` calls.

The mathematics is in `evaluation.comparison`. It must not know how what it finds is said or drawn.
"""

from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.actions.evaluate import Predictions, predict_data
from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.config.build import build_config
from clearsight.config.files import check_count, merge, parse_setting, read_config_file
from clearsight.config.resolve import name_source, resolve_config
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.intervals import wilson_interval
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.dataset import VALID, Dataset
from clearsight.errors import UsageError
from clearsight.evaluation.comparison import (
    LEAST_PAIRS,
    AnswersCompared,
    RunsCompared,
    compare_answers,
    compare_runs,
)
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import DATASET_KEYS, build_split, find_unused, load_given, refuse_flaws
from clearsight.pipeline.head import warm_features
from clearsight.pipeline.safety import refuse_unsafe
from clearsight.runs.test_uses import add_test_use, count_models
from clearsight.search.executors import check_executor, open_pool
from clearsight.search.jobs import METRICS, Job, choose_metric, note_patience

UNCHANGED = "base"
_RECIPE_FILES = (".toml", ".json")
_MOST_PAIRS = 10_000
_READING = ("follow_links", "max_megapixels")  # settings that say which files can be read


@dataclass(frozen=True)
class ModelsCompared:
    """Two models on one test set.

    Args:
        names: of A and B. intervals: 95 %, Wilson, of each accuracy. split: whose rows. looks: how many different models,
            these included, have been evaluated on that test split; None where nobody counted.
    """

    names: tuple[str, str]
    answers: AnswersCompared
    intervals: tuple[tuple[float, float], tuple[float, float]]
    split: str
    looks: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        about = {
            "kind": "models",
            "names": self.names,
            "split": self.split,
            "looks": self.looks,
            "intervals": self.intervals,
        }
        return about | self.answers.as_dict()


@dataclass(frozen=True)
class RecipesCompared:
    """Recipes over paired runs.

    Args:
        names: of the recipes. metric: that runs are judged by. values: of each recipe, one a pair.
        pairs: places of A and B among the names, and what was found, corrected for how many there are.
        split: whose rows. redrawn: whether each pair has its own validation rows. looks: see `ModelsCompared`.
    """

    names: tuple[str, ...]
    metric: str
    values: tuple[tuple[float, ...], ...]
    pairs: tuple[tuple[int, int, RunsCompared], ...]
    split: str
    redrawn: bool
    looks: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = [{"a": self.names[a], "b": self.names[b], **one.as_dict()} for a, b, one in self.pairs]
        return {"kind": "recipes", **asdict(replace(self, pairs=())), "comparisons": found}


def compare(
    *sides: Any,
    data: Any = None,
    labels: Any = None,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    pairs: int = LEAST_PAIRS,
    split: str | None = None,
    metric: str | None = None,
    workers: int | None = None,
    executor: str = "auto",
    root: str | Path = "runs",
    note: Note = lambda text: None,
    meter: MeterBuilder = SilentMeter,
    **settings: Any,
) -> ModelsCompared | RecipesCompared:
    """Compare two models on one test set, or two and more recipes over paired runs.

    Args:
        sides: models (bundles, model files, run directories), or recipes: configuration files, nested settings, texts such as
            `lr=0.1 l2=0.001` or `finetune=last image_size=640`, or `base` for the common settings as they are.
        data, labels: as for `evaluate` and `train`. config, settings: common to all recipes; of models `follow_links` and
            `max_megapixels` alone, as for `evaluate`.
        pairs: runs of each recipe, ten or more; pair k has the same seed and the same rows for all.
        split: rows to be judged on; of models by default `test`, of recipes `valid`, drawn anew for each pair where the data
            brings none. `test` counts as a look at it.
        metric: of recipes: `accuracy`, `loss` or `mae`. workers, executor: see `open_pool`. root: where looks are counted.

    Raises:
        UsageError: fewer than two sides, models beside recipes, test sets that differ, fewer than ten pairs.
    """
    if len(sides) < 2:
        raise UsageError(f"compare must have two sides or more, got {len(sides)}. Name A and B.")
    kinds = {_is_recipe(side) for side in sides}
    if len(kinds) > 1:
        raise UsageError("compare must have models alone or recipes alone, got both. Compare those of one kind.")
    if not kinds.pop():
        reading = {key: settings.pop(key) for key in _READING if key in settings}
        computed = pairs != LEAST_PAIRS or workers is not None or executor != "auto"
        if config is not None or settings or metric or computed or len(sides) != 2:
            raise UsageError(
                "models must be compared two at a time and as they are, got settings or more. Leave those out."
            )
        return _compare_models(
            sides[0], sides[1], data, labels, split=split, root=Path(root), note=note, meter=meter, **reading
        )
    settings = name_source(data, settings)
    base = resolve_config(config, settings).model_dump(exclude_unset=True)
    recipes = {_name(side): resolve_config(merge(base, _read_recipe(side)), {}) for side in sides}
    if len(recipes) < len(sides):
        raise UsageError(f"recipes must differ, got one twice among {', '.join(map(_name, sides))}. Change one.")
    check_count("--pairs", pairs)
    if not LEAST_PAIRS <= pairs <= _MOST_PAIRS:
        raise UsageError(
            f"--pairs must lie in {LEAST_PAIRS} to {_MOST_PAIRS:,}, got {pairs}. Fewer show next to nothing."
        )
    if split not in (None, "valid", "test"):
        raise UsageError(f"--split must be valid or test for recipes, got {split!r}. Choose one of them.")
    seeds = {(one.train.seed, one.data.split_seed, one.data.fold_seed) for one in recipes.values()}
    if len(seeds) > 1:
        raise UsageError(
            "recipes must have equal seeds, which pairs share, got different ones. Leave them out of the recipes."
        )
    check_executor(executor, workers)
    note = _once(note)
    recipes = {name: resolve_family(one, data, note=note, meter=meter) for name, one in recipes.items()}
    return _compare_recipes(
        recipes, data, labels, pairs=pairs, split=split or "valid", metric=metric, workers=workers, executor=executor,
        root=Path(root), note=note, meter=meter,
    )  # fmt: skip


def _once(note: Note) -> Note:
    """Tell each thing one time, though it holds for several recipes."""
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            note(text)

    return tell


def _is_recipe(side: Any) -> bool:
    if isinstance(side, RunConfig | dict):
        return True
    if isinstance(side, Bundle):
        return False
    text = str(side)
    if not isinstance(side, str | Path):
        raise UsageError(f"a side must be a model or a recipe, got {side!r}. Name it.")
    if not text.strip():
        raise UsageError("a side must be a model or a recipe, got nothing. Name it.")
    if Path(text).is_dir():
        return False
    return text == UNCHANGED or "=" in text or text.endswith(_RECIPE_FILES)


def _name(side: Any) -> str:
    if isinstance(side, Bundle):
        return str(side.path or side.net.label)
    if isinstance(side, RunConfig):
        side = side.model_dump(exclude_unset=True)
    if isinstance(side, dict):
        tables = {s: values if isinstance(values, dict) else {"": values} for s, values in side.items()}
        return " ".join(f"{s}.{k}={v}".replace(".=", "=") for s, t in tables.items() for k, v in t.items()) or UNCHANGED
    return str(side)


def _read_recipe(side: Any) -> dict[str, Any]:
    if isinstance(side, RunConfig):
        return side.model_dump(exclude_unset=True)
    if isinstance(side, dict):
        return side
    text = str(side)
    if text == UNCHANGED:
        return {}
    if text.endswith(_RECIPE_FILES) and "=" not in text:
        return read_config_file(Path(text))
    return merge(*(parse_setting(part, short=True) for part in text.split()))


def _compare_models(
    a: Any,
    b: Any,
    data: Any,
    labels: Any,
    *,
    split: str | None,
    root: Path,
    note: Note,
    meter: MeterBuilder,
    **reading: Any,
) -> ModelsCompared:
    models = [side if isinstance(side, Bundle) else load(side) for side in (a, b)]
    answers = [predict_data(model, data, labels, split=split, note=note, meter=meter, **reading) for model in models]
    _check_same(*answers)
    right = [answered.outputs.argmax(axis=1) == answered.truth for answered in answers]
    found = compare_answers(right[0], right[1])
    intervals = [wilson_interval(int(one.sum()), len(one)) for one in right]
    looks = None
    first = answers[0]
    if first.split == "test":
        seen = {f"compare {_name(model)}": model.fingerprint for model in models}
        looks = _look(root, first.dataset, first.rows, seen)
    return ModelsCompared((_name(a), _name(b)), found, (intervals[0], intervals[1]), first.split, looks)


def _look(root: Path, dataset: Dataset, rows: Any, models: dict[str, str]) -> int | None:
    """Note models, fingerprints by name, as evaluated on a test split, where there is a folder of runs; how many now are."""
    if not root.is_dir():
        return None
    for name, model in models.items():
        add_test_use(root, dataset, rows, model=model, by=name)
    return count_models(root, dataset, rows)


def _check_same(a: Predictions, b: Predictions) -> None:
    """Refuse answers to different questions."""
    if not a.bundle.class_names or not b.bundle.class_names:
        raise UsageError(
            "models to compare must be classifiers, got one of numbers. Compare recipes, with --metric mae."
        )
    names = [np.array(one.bundle.class_names)[one.truth] for one in (a, b)]
    same = len(a.rows) == len(b.rows) and bool((names[0] == names[1]).all())
    if same and a.dataset.fingerprint != b.dataset.fingerprint:  # read at other sizes: then by the names of rows
        same = all(
            a.dataset.row_name(int(i)) == b.dataset.row_name(int(j)) for i, j in zip(a.rows, b.rows, strict=True)
        )
    elif same:
        same = bool((a.rows == b.rows).all())
    if not same:
        raise UsageError(
            f"models must be compared on one test set, got {len(a.rows):,} rows of {a.dataset.name} and {len(b.rows):,} of "
            f"{b.dataset.name} that are not the same. Name labelled data that is new to both."
        )


def _compare_recipes(
    recipes: dict[str, RunConfig],
    data: Any,
    labels: Any,
    *,
    pairs: int,
    split: str,
    metric: str | None,
    workers: int | None,
    executor: str,
    root: Path,
    note: Note,
    meter: MeterBuilder,
) -> RecipesCompared:
    datasets = _load_all(recipes, data, labels, note=note, meter=meter)
    first = next(iter(recipes))
    wanted = choose_metric(recipes[first], datasets[first], metric, split=split)
    redrawn = split == "valid" and all(_draws_validation(config, datasets[name]) for name, config in recipes.items())
    note_patience(recipes.values(), note)
    values: list[tuple[float, ...]] = []
    sizes, diverged, seen = set(), 0, dict[str, str]()
    with meter("comparing", pairs * len(recipes), unit="runs") as advance:
        for name, config in recipes.items():
            jobs = {k: Job(_resolve_pair(config, k, redrawn=redrawn), split=split) for k in range(pairs)}
            check_used(build_config(jobs[0].settings))
            found = {}
            warm_features(config, datasets[name], meter=meter, note=note, runs=pairs)
            with open_pool(datasets[name], [config], executor=executor, workers=workers) as pool:
                for k, outcome in pool.run(jobs):
                    found[k] = outcome
                    advance(1)
            values.append(tuple(found[k].metrics[wanted] for k in range(pairs)))
            seen |= {f"compare {name} {k}": found[k].model for k in range(pairs)}
            sizes |= {(one.n, one.num_train) for one in found.values()}
            diverged += sum(one.status == "diverged" for one in found.values())
    if diverged:
        note(f"{diverged} runs diverged; they count with the last good weights")
    if len({n for n, _ in sizes}) > 1:
        note("the recipes are evaluated on different numbers of rows, so their runs are paired by seed alone")
    looks = None
    if split == "test":
        looks = _look(root, datasets[first], build_split(recipes[first], datasets[first]).test, seen)
    ratio = max(n / train for n, train in sizes) if redrawn else 0.0
    arrays, places = [np.array(one) for one in values], list(combinations(range(len(values)), 2))
    compared = [
        compare_runs(arrays[a], arrays[b], ratio=ratio, better=METRICS[wanted], comparisons=len(places))
        for a, b in places
    ]
    found_pairs = tuple((a, b, one) for (a, b), one in zip(places, compared, strict=True))
    return RecipesCompared(tuple(recipes), wanted, tuple(values), found_pairs, split, redrawn, looks)


def _load_all(
    recipes: dict[str, RunConfig], data: Any, labels: Any, *, note: Note, meter: MeterBuilder
) -> dict[str, Dataset]:
    """The data set of each recipe, checked as before training; the same one where the same pictures are meant."""
    known: dict[Any, Dataset] = {}
    found = {}
    for name, config in recipes.items():
        settings = config.model_dump()
        key = repr([settings[key.split(".")[0]][key.split(".")[1]] for key in DATASET_KEYS])
        if key not in known:
            known[key] = load_given(config, data, labels, meter=meter)
        found[name] = known[key]
        for text in (*found[name].notes, *find_unused(config, found[name], data)):
            note(text)
        refuse_flaws(config, found[name], note=note)
        refuse_unsafe(config, found[name], note=note, meter=meter)
    return found


def _draws_validation(config: RunConfig, dataset: Dataset) -> bool:
    """Whether validation rows can be drawn anew for each pair: they are drawn at all, at random, and by a share."""
    drawn = config.data.train_per_class is None and not bool((dataset.given == VALID).any())
    return drawn and config.data.shuffle_split and (config.data.valid_fraction > 0 or config.data.folds is not None)


def _resolve_pair(config: RunConfig, k: int, *, redrawn: bool) -> dict[str, Any]:
    """The settings of pair k: another seed and, where validation rows are drawn, others of them; test rows stay as they are."""
    settings = config.model_dump(exclude_unset=True)
    settings = merge(settings, {"train": {"seed": config.train.seed + k}})
    if not redrawn:
        return settings
    folds = config.data.folds or max(2, round(1 / config.data.valid_fraction))
    settings["data"] = {key: value for key, value in settings.get("data", {}).items() if key != "valid_fraction"}
    seed = config.data.fold_seed + config.train.seed + k  # so that other seeds are other pairs altogether
    return merge(settings, {"data": {"folds": folds, "fold": 0, "fold_seed": seed}})
