"""`clearsight compare`: is A better than B, or is it luck?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import option
from clearsight.cli.output import check_place, plain, print_json, tell
from clearsight.cli.settings import MANY_RUNS, takes_settings


@takes_settings(MANY_RUNS)
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Two models or run directories; or configurations: a TOML file, settings such as 'lr=0.1 l2=0' or "
            "'finetune=last image_size=640', or base for the default."
        ),
    ],
    *,
    data: Annotated[str | None, option("Labelled data; for models, by default that of their runs.", "--data")] = None,
    pairs: Annotated[int, typer.Option("--pairs", help="Runs of each configuration.")] = 10,
    split: Annotated[
        str | None, option("Split to evaluate on; by default test for models and valid for configurations.", "--split")
    ] = None,
    metric: Annotated[str | None, option("Metric for configurations: accuracy, loss or mae.", "--metric")] = None,
    plot: Annotated[Path | None, option("SVG file to plot the comparison to.", "--plot")] = None,
    workers: options.Workers = None,
    executor: options.Executor = "auto",
    settings: dict[str, Any],
    root: options.Root = Path("runs"),
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Test whether one model is really better than another, or one configuration better than others.

    Two models are compared on one test set, with McNemar's exact test and a paired bootstrap. Configurations are compared
    over ten or more paired runs with equal seeds and splits, with a corrected paired t-test. The result says how likely A is to
    be better in one more run and how many more runs would settle the question. Several comparisons are corrected by Bonferroni.
    """
    from clearsight.actions.compare import compare as compare_sides
    from clearsight.core.progress import build_meter
    from clearsight.runs.store import write_text

    check_place(plot, "--plot")
    said = settings.get("data", {})
    reading = {key: said.pop(key) for key in ("follow_links", "max_megapixels") if key in said}
    if not said:
        settings.pop("data", None)
    silent = quiet or json_
    found = compare_sides(
        *sides, data=data, config=settings or None, pairs=pairs, split=split, metric=metric, workers=workers,
        executor=executor, root=root, note=tell(quiet=silent), meter=build_meter(quiet=silent),
        **reading,
    )  # fmt: skip
    text, svg = _describe(found, next_seed=int(settings.get("train", {}).get("seed", 0)))
    if plot:
        write_text(plot, svg() + "\n")
    if json_:
        print_json({**found.as_dict(), "plot": str(plot) if plot else None})
    else:
        typer.echo(text + (f"\nplot    {plain(plot)}" if plot else ""))


def _describe(found: Any, *, next_seed: int) -> tuple[str, Any]:
    from clearsight.actions.compare import ModelsCompared
    from clearsight.report.comparisons import draw_comparison, render_answers, render_runs
    from clearsight.search.jobs import METRICS

    lines = []
    names = [f"{letter}: {name}" for letter, name in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", found.names, strict=False)]
    if isinstance(found, ModelsCompared):
        both = found.answers
        for name, share, (low, high) in zip(names, (both.accuracy_a, both.accuracy_b), found.intervals, strict=True):
            lines.append(f"{name}\n   accuracy {share:.4f} (95 % interval {low:.4f} to {high:.4f}, n = {both.n:,})")
        lines.append(render_answers(both))
        values = [[both.accuracy_a], [both.accuracy_b]]
        bars = [("A minus B", both.difference, both.low, both.high, both.shown)]
        draw = lambda: draw_comparison(names, values, bars, metric="accuracy", intervals=found.intervals)
    else:
        rows = "validation rows that are drawn again for each pair" if found.redrawn else f"the same {found.split} rows"
        lines.append(f"{len(found.values[0])} runs each, evaluated on {rows}; means of {found.metric}:")
        lines += [f"{name}\n   {sum(own) / len(own):.4f}" for name, own in zip(names, found.values, strict=True)]
        for a, b, one in found.pairs:
            sides = {"a": names[a][0], "b": names[b][0]}
            about = {"metric": found.metric, "redrawn": found.redrawn, "better": METRICS[found.metric]}
            lines.append(render_runs(one, **sides, **about, next_seed=next_seed + len(found.values[0])))
        if len(found.pairs) > 1:
            lines.append(
                f"p and intervals are corrected for {len(found.pairs)} comparisons (Bonferroni): "
                "with 95 % confidence, all intervals hold at the same time."
            )
        bars = [
            (f"{names[a][0]} minus {names[b][0]}", one.difference, one.low, one.high, one.shown)
            for a, b, one in found.pairs
        ]
        draw = lambda: draw_comparison(names, found.values, bars, metric=found.metric)
    if found.looks:
        count = "1 model has" if found.looks == 1 else f"{found.looks:,} models have"
        lines.append(f"{count} been evaluated on this test split. The more there are, the less the best of them means.")
    return "\n".join(lines), draw
