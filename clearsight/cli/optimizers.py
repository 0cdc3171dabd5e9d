"""`clearsight optimizers`: their paths on a surface with a known minimum, as a picture and an animation."""

from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.output import check_place, plain, print_json


def optimizers(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Optimisers, each written as NAME or NAME=LR; by default sgd, momentum and adam.", show_default=False
        ),
    ] = None,
    surface: Annotated[str, typer.Option("--surface", help="Test function: valley, beale or rosenbrock.")] = "valley",
    steps: Annotated[int, typer.Option("--steps", min=1, max=10_000, help="Steps per path.")] = 80,
    out: Annotated[Path, typer.Option("--out", help="SVG file to write.")] = Path("optimizers.svg"),
    animation: Annotated[
        Path | None, typer.Option("--animation", help="Animated GIF to write as well.", show_default=False)
    ] = None,
    json_: options.Json = False,
) -> None:
    """Draw the paths of optimisers on a test function of two variables.

    Each optimiser uses the best of 55 learning rates unless you give one.
    """
    from clearsight.core.files import write_durably
    from clearsight.errors import UsageError
    from clearsight.report.optimizer_paths import draw_paths, render_animation
    from clearsight.runs.store import write_text
    from clearsight.training.optimizer_paths import SURFACES, find_best_path, trace_path

    for path, flag in ((out, "--out"), (animation, "--animation")):
        check_place(path, flag)
    if animation is not None and animation.resolve() == out.resolve():
        raise UsageError(f"--animation must be another file than --out, got {out} for both. Choose two.")
    if surface not in SURFACES:
        raise UsageError(f"--surface must be one of {', '.join(SURFACES)}, got {surface!r}. Choose one of them.")
    chosen, paths = SURFACES[surface], []
    for text in names or ["sgd", "momentum", "adam"]:
        name, equals, rate = text.partition("=")
        if not equals:
            trace_path(name, chosen, lr=1.0, steps=1)  # refuses what is no optimiser before 55 are traced
            paths.append(find_best_path(name, chosen, steps=steps))
            continue
        try:
            lr = float(rate)
        except ValueError:
            raise UsageError(f"NAMES must be NAME or NAME=LR, got {text!r}. For example adam=0.1.") from None
        if not 0 < lr < float("inf"):
            raise UsageError(f"lr of {name} must be a number above 0, got {rate}. For example {name}=0.1.")
        paths.append(trace_path(name, chosen, lr=lr, steps=steps))
    write_text(out, draw_paths(chosen, paths) + "\n")
    if animation:
        write_durably(animation, render_animation(chosen, paths))
    if json_:
        rows = [
            {
                "optimizer": p.optimizer,
                "lr": p.lr,
                "end": p.points[-1].tolist(),
                "height": float(p.heights[-1]),
                "flew": p.diverged,
            }
            for p in paths
        ]
        print_json({
            "surface": surface, "minimum": list(chosen.minimum), "steps": steps, "paths": rows, "picture": str(out),
            "animation": str(animation) if animation else None,
        })  # fmt: skip
        return
    for p in paths:
        typer.echo(
            f"{p.optimizer:<9} lr {p.lr:<8.3g} ends at ({p.points[-1, 0]:.4f}, {p.points[-1, 1]:.4f}), height {p.heights[-1]:.3g}"
            + (" (then flew away: a lower lr may do)" if p.diverged else "")
        )
    typer.echo("\n".join(plain(path) for path in (out, animation) if path))
