"""`clearsight data check|show|safety|fetch|make|cache`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.output import plain, print_json, print_notes, tell
from clearsight.cli.settings import READING, PanelCommand, takes_settings

app = typer.Typer(
    help="Check, show, download, generate and cache data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
_LISTED = 10
_CLASSES = 30


def _configure(data: str, settings: dict[str, Any]) -> Any:
    """The configuration that options mean."""
    from clearsight.config.build import build_config
    from clearsight.config.files import merge

    return build_config(merge(settings, {"data": {"source": data}}))


@app.command(cls=PanelCommand)
@takes_settings(READING)
def check(
    data: options.Data,
    *,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="Picture file to draw the affected pictures to, for example out.png.", show_default=False
        ),
    ] = None,
    settings: dict[str, Any],
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check data for problems before training on it.

    The check finds unreadable files, duplicates, conflicting labels, leakage between splits, unusual classes, sizes and
    pixels, and splits that differ. Errors would stop `train`, so they end with exit code 3; warnings do not.
    """
    from clearsight.core.progress import build_meter
    from clearsight.pipeline.data import check_source

    config = _configure(data, settings)
    dataset, findings = check_source(config, meter=build_meter(quiet=quiet or json_))
    print_notes(dataset.notes, quiet=quiet or json_)
    if sheet:
        from clearsight.report.findings import draw_findings
        from clearsight.report.sheet import save_sheet

        save_sheet(draw_findings(dataset, findings), sheet)
    errors = sum(finding.level == "error" for finding in findings)
    if json_:
        print_json({
            "data": data, "rows": len(dataset), "classes": list(dataset.class_names), "notes": list(dataset.notes),
            "errors": errors, "findings": [finding.as_dict() for finding in findings],
            "sheet": str(sheet) if sheet else None,
        })  # fmt: skip
    else:
        typer.echo(_render_findings(dataset, findings))
        if sheet:
            typer.echo(f"sheet   {plain(sheet)}")
    if errors:
        raise typer.Exit(3)


def _render_findings(dataset: Any, findings: list[Any]) -> str:
    height, width, channels = dataset.picture_shape
    kind = "numbers" if dataset.is_regression else f"{len(dataset.class_names)} classes"
    lines = [f"{plain(dataset.name)}: {len(dataset):,} pictures of {width}x{height}x{channels}, {kind}"]
    if not dataset.is_regression:
        classes = [f"{plain(name)} {int((dataset.labels == k).sum()):,}" for k, name in enumerate(dataset.class_names)]
        more = f", and {len(classes) - _CLASSES} more" if len(classes) > _CLASSES else ""
        lines.append(f"classes: {', '.join(classes[:_CLASSES])}{more}")
    for finding in findings:
        lines.append(f"{finding.level:<8}{plain(finding.message)}")
        lines += [f"          {plain(name)}" for name in finding.files[:_LISTED]]
        if len(finding.files) > _LISTED:
            lines.append(f"          and {len(finding.files) - _LISTED:,} more (--json lists all)")
    counts = [(sum(f.level == level for f in findings), level) for level in ("error", "warning", "note")]
    lines.append(
        ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for n, level in counts) if findings else "nothing found"
    )
    return "\n".join(lines)


@app.command(cls=PanelCommand)
@takes_settings((*READING, "augment.preset"))
def show(
    data: options.Data,
    *,
    out: Annotated[Path, typer.Option("--out", help="Picture file to write: .png, .jpg or .webp.")] = Path(
        "contact-sheet.png"
    ),
    per_class: Annotated[
        int | None,
        typer.Option(
            "--per-class", min=1, max=200, help="Pictures per class; 10, or 2 with --augment.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed for the choice of pictures and their augmentation.")
    ] = 0,
    settings: dict[str, Any],
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a contact sheet of training pictures of every class, as the network will see them."""
    from clearsight.core.progress import build_meter
    from clearsight.pipeline.data import build_split, load_dataset, resolve_augmentation
    from clearsight.report.contact import draw_augmented, draw_classes
    from clearsight.report.sheet import save_sheet

    config = _configure(data, settings)
    dataset = load_dataset(config, meter=build_meter(quiet=quiet or json_))
    print_notes(dataset.notes, quiet=quiet or json_)
    rows = build_split(config, dataset).train
    if "augment" in settings:
        augmentation, left_out = resolve_augmentation(config, dataset)
        print_notes(left_out, quiet=quiet or json_)
        sheet = draw_augmented(dataset, rows, augmentation, per_class=per_class or 2, seed=seed)
    else:
        sheet = draw_classes(dataset, rows, per_class=per_class or 10, seed=seed)
    save_sheet(sheet, out)
    if json_:
        print_json({"data": data, "sheet": str(out), "rows": len(dataset), "classes": list(dataset.class_names)})
    else:
        typer.echo(plain(out))


@app.command(cls=PanelCommand)
@takes_settings((*READING, "augment.preset"))
def safety(
    data: options.Data,
    *,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="Picture file to draw examples to, for example out.png.", show_default=False),
    ] = None,
    settings: dict[str, Any],
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure which transforms preserve the labels of this data, and which turn one class into another.

    Small probe models learn the original training pictures. Held-out pictures that they classify with confidence are then
    transformed. A transform is unsafe if many of these become pictures of another class: a 6 turned upside down is a 9.
    """
    from clearsight.core.progress import build_meter
    from clearsight.pipeline.data import load_dataset, resolve_augmentation
    from clearsight.pipeline.safety import explain_unknown, measure_safety
    from clearsight.report.verdicts import draw_verdicts, render_verdicts

    config = _configure(data, settings)
    dataset = load_dataset(config, meter=build_meter(quiet=quiet or json_))
    print_notes(dataset.notes, quiet=quiet or json_)
    augmentation, left_out = resolve_augmentation(config, dataset)
    print_notes(left_out, quiet=quiet or json_)
    judge, verdicts = measure_safety(config, dataset, meter=build_meter(quiet=quiet or json_))
    if sheet:
        from clearsight.report.sheet import save_sheet

        save_sheet(draw_verdicts(dataset, judge, verdicts, fill=augmentation.fill), sheet)
    if json_:
        print_json({
            "data": data, "probes": [view.kind for view in judge.views], "accuracy": judge.views[0].accuracy,
            "clear": int(judge.clear.sum()), "judged": len(judge.rows), "counts": judge.strict,
            "verdicts": [verdict.as_dict() for verdict in verdicts], "unknown": explain_unknown(judge, verdicts),
            "sheet": str(sheet) if sheet else None,
        })  # fmt: skip
    else:
        typer.echo("\n".join(plain(line) for line in render_verdicts(judge, verdicts).splitlines()))
        if unknown := explain_unknown(judge, verdicts):
            typer.echo(f"\n{plain(unknown)}")
        if sheet:
            typer.echo(f"\nsheet   {plain(sheet)}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set to download: mnist, fashion-mnist, kmnist or cifar10.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Folder to download to; by default the user's data directory.", show_default=False
        ),
    ] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a published data set and verify its checksums.

    An interrupted download resumes. CLEARSIGHT_MIRROR names a mirror to try first.
    """
    from clearsight.core.progress import build_meter
    from clearsight.data.named.fetch import fetch_data
    from clearsight.data.read.load import data_folders

    path = fetch_data(name, folder=folder or data_folders()[-1], meter=build_meter(quiet=quiet), note=tell(quiet=quiet))
    if json_:
        print_json({"name": name, "path": str(path)})
    else:
        typer.echo(plain(path))


@app.command()
def make(
    kind: Annotated[str, typer.Argument(help="Kind of data set: counting.")],
    out: Annotated[Path, typer.Option("--out", help="Folder, .zip or .npz file to write.")] = Path("counting"),
    counts: Annotated[str, typer.Option("--counts", help="Numbers of discs, for example 1-5 or 1,3,7.")] = "1-5",
    per_class: Annotated[int, typer.Option("--per-class", min=1, help="Training pictures per count.")] = 1000,
    test_per_class: Annotated[int, typer.Option("--test-per-class", min=0, help="Test pictures per count.")] = 0,
    size: Annotated[str, typer.Option("--size", help="Size of the pictures, WIDTHxHEIGHT.")] = "432x288",
    sizes: Annotated[str, typer.Option("--sizes", help="Sizes of the discs: fixed or various.")] = "fixed",
    target: Annotated[
        str, typer.Option("--target", help="Labels: class (one folder each) or number (metadata.csv).")
    ] = "class",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the pictures.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate a synthetic data set: counting, pictures of discs to count.

    The discs never touch each other and lie completely inside the picture.
    """
    from clearsight.core.progress import build_meter
    from clearsight.data.named.counting import make_counting, parse_counts
    from clearsight.errors import UsageError

    if kind != "counting":
        raise UsageError(f"KIND must be counting, got {kind!r}. Use `clearsight data make counting`.")
    width, height = _parse_sides(size)
    summary = make_counting(
        out, counts=parse_counts(counts), per_class=per_class, width=width, height=height,
        sizes=_choose(sizes, "--sizes", "fixed", "various"), seed=seed, target=_choose(target, "--target", "class", "number"),
        test_per_class=test_per_class, meter=build_meter(quiet=quiet), overwrite=overwrite,
    )  # fmt: skip
    if json_:
        print_json(summary)
    else:
        typer.echo(f"{summary['train'] + summary['test']:,} pictures of {width}x{height} in {plain(summary['path'])}")


def _choose(value: str, flag: str, *known: str) -> Any:
    from clearsight.errors import UsageError

    if value not in known:
        raise UsageError(f"{flag} must be {' or '.join(known)}, got {value!r}. Choose one of them.")
    return value


def _parse_sides(text: str) -> tuple[int, int]:
    from clearsight.errors import UsageError

    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise UsageError(f"--size must be WIDTHxHEIGHT, got {text!r}. For example --size 432x288.")
    return int(sides[0]), int(sides[1])


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Clear the cache.")] = False,
    json_: options.Json = False,
) -> None:
    """List or clear the cache of decoded pictures. CLEARSIGHT_CACHE_BYTES limits its size; 0 turns it off."""
    from clearsight.data.read.cache import cache_folder, cache_limit, clear_cache, list_entries

    if clear:
        count, size = clear_cache()
        if json_:
            print_json({"removed": count, "bytes": size})
        else:
            typer.echo(f"removed {count} entries, {size / 1e6:,.1f} MB")
        return
    limit, entries = cache_limit(), list_entries()
    if json_:
        listed = [{"path": str(e.path), "bytes": e.size_bytes, "source": e.source} for e in entries]
        print_json({"folder": str(cache_folder()), "limit_bytes": limit, "entries": listed})
        return
    for entry in entries:
        typer.echo(f"{entry.size_bytes / 1e6:>10,.1f} MB  {plain(entry.source)}")
    total = sum(e.size_bytes for e in entries)
    typer.echo(f"{total / 1e6:>10,.1f} MB of {limit / 1e6:,.0f} MB in {cache_folder()}")
