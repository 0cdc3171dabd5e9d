"""`clearsight tune`: a search for settings, a live leaderboard, and the best judged once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import OUTPUT, option
from clearsight.cli.output import plain, print_json, render_judged, tell
from clearsight.cli.settings import MANY_RUNS, takes_settings

_SHOWN = 10


@takes_settings(MANY_RUNS)
def tune(
    data: options.OptionalData = None,
    *,
    search: Annotated[
        list[str] | None,
        option("Setting to search: train.lr=0.01,0.1, or 'train.lr={log = [1e-4, 1]}'; may be repeated.", "--search"),
    ] = None,
    strategy: Annotated[
        str | None,
        option(
            "Search strategy: grid, random, perturb or tpe; by default grid if it is small, else tpe.", "--strategy"
        ),
    ] = None,
    trials: Annotated[
        int | None, option("Largest number of trials; by default 40, or all of a grid.", "--trials")
    ] = None,
    minutes: Annotated[float | None, option("Start no trial after this many minutes.", "--minutes")] = None,
    folds: Annotated[
        int | None, option("Score each trial by k-fold cross-validation with this many folds.", "--folds")
    ] = None,
    prune: Annotated[
        str, typer.Option("--prune", help="How to stop poor trials early: none, halving or hyperband.")
    ] = "none",
    metric: Annotated[str | None, option("Metric that scores a trial: accuracy, loss or mae.", "--metric")] = None,
    search_seed: Annotated[int, typer.Option("--search-seed", min=0, help="Seed of the search.")] = 0,
    round_size: Annotated[int | None, option("Number of trials proposed together.", "--round-size")] = None,
    workers: options.Workers = None,
    executor: options.Executor = "auto",
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain/--no-retrain", help="Retrain the best configuration and evaluate it on the test split."
        ),
    ] = True,
    settings: dict[str, Any],
    out: Annotated[Path | None, option("Directory to create for the search.", "--out", panel=OUTPUT)] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[str | None, option("Directory of a search to resume, or last.", "--resume", panel=OUTPUT)] = None,
    track: options.Track = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Search for the best settings, retrain with them on training and validation rows, and evaluate once on the test split.

    The same seed gives the same trials and results with one worker or many, even if the search is killed and resumed.
    """
    from clearsight.actions.tune import tune as search_settings

    silent = quiet or json_
    tuned = search_settings(
        data, config=settings, search=search or [], strategy=strategy, trials=trials, minutes=minutes, folds=folds,
        prune=prune, metric=metric, seed=search_seed, round_size=round_size, workers=workers, executor=executor, out=out,
        root=root, resume=resume, retrain=retrain, quiet=silent, note=tell(quiet=silent), track=track or (),
    )  # fmt: skip
    if json_:
        print_json(tuned.summary())
    else:
        typer.echo(_render(tuned))


def _render(tuned: Any) -> str:
    from clearsight.search.leaderboard import rank, render_score
    from clearsight.search.space import render_params

    plan, lines = tuned.plan, []
    judged = f"mean of {plan.folds} folds" if plan.folds else f"on {tuned.best.n:,} validation rows"
    lines.append(f"{'':>4}{'trial':>7}  {plan.metric}, {judged} (95 % interval)")
    for place, trial in enumerate(rank(tuned.trials, plan.metric)[:_SHOWN], 1):
        lines.append(f"{place:>4}{trial.number:>7}  {render_score(trial):<28}  {render_params(trial.params)}")
    if len(tuned.trials) > _SHOWN:
        lines.append(f"{'':>4}and {len(tuned.trials) - _SHOWN} more in {plain(tuned.path / 'leaderboard.csv')}")
    if tuned.importance:
        lines.append("matters: " + ", ".join(f"{key} {share:.0%}" for key, share in tuned.importance.items()))
    if tuned.run:
        found = tuned.run.evaluations()
        lines.append(
            render_judged(found["test"]) if "test" in found else "there is no test split to evaluate the best on"
        )
    lines.append(f"search  {plain(tuned.path)}")
    if tuned.run:
        lines.append(f"model   {plain(tuned.run.path / 'model.clearsight')}")
    return "\n".join(lines)
