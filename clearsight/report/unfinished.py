"""The report of a run that has not ended: how far it came, its curves so far, and how to go on."""

import tomllib
from pathlib import Path

import numpy as np
from markupsafe import Markup

from clearsight.errors import RunError
from clearsight.report import page, plots
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.events import Course, read_course
from clearsight.runs.record import UNDER_WAY


def write_unfinished(path: Path) -> Path:
    """Write `report.html` of a run without results, from what it wrote on its way.

    Args:
        path: its run directory.

    Returns:
        Where the report lies.

    Raises:
        RunError: a file is missing or damaged, or the folder not writable.
    """
    files = RunDirectory(path)
    record = store.read_json(files.record)
    try:
        config_text = files.config.read_text(encoding="utf-8")
        tomllib.loads(config_text)
    except (OSError, ValueError) as error:
        raise RunError(f"{files.config} must be whole, got damage ({error}). Restore it or train again.") from None
    run, course, machine = store.read_run(path), read_course(path), files.environment
    parts = [
        page.section(
            f"This run has not ended: {run.status}",
            page.paragraph(describe_place(course)),
            page.paragraph(_advise(run.status, path)),
            page.paragraph(f"{run.data} · {run.model} · begun {run.created}", kind="meta"),
        ),
        *_render_curves(course, classes=bool(record.get("class_names"))),
        *page.origin_sections(config_text, store.read_json(machine) if machine.is_file() else {}),
    ]
    report = RunDirectory(path).report
    store.write_text(report, page.render_page(f"{run.data}: {run.model} – clearsight", parts))
    return report


def describe_place(course: Course) -> str:
    """How far a run came, as a sentence."""
    if not course.steps_per_epoch:
        return "It had not begun to train."
    epochs = course.done / course.steps_per_epoch
    text = f"It has done {course.done:,} of {course.steps:,} steps, {epochs:.1f} of {course.epochs} epochs."
    if course.rows and course.rows[-1]["valid_accuracy"] is not None:
        best = max(course.rows, key=lambda row: row["valid_accuracy"] or 0.0)
        text += f" The best validation accuracy so far is {best['valid_accuracy']:.4f}, after epoch {best['epoch']}."
    return text


def _advise(status: str, path: Path) -> str:
    if status in UNDER_WAY:
        return f"Follow it with `clearsight runs watch {path}`."
    return f"Go on with `clearsight train --resume {path}`."


def _render_curves(course: Course, *, classes: bool) -> list[Markup]:
    """Curves by step and by epoch, as far as there are any."""
    parts: list[Markup] = []
    unit = plots.NATS if classes else plots.SQUARES
    points, each = course.points, round(course.steps_per_epoch)
    if len(points) > 1 and each:
        losses = np.interp(np.arange(1, points[-1, 0] + 1), points[:, 0], points[:, 1])
        svg = plots.draw_losses(losses, steps_per_epoch=each, unit=unit, smoothed=True)
        note = page.paragraph("Mean of the batches of about a second, before their updates.", kind="note")
        parts.append(page.section("Loss so far", page.plot(svg, label="Loss so far, as a line chart"), note, half=True))
    if course.rows:
        what, of = ("accuracy", "%") if classes else ("loss", unit)
        svg = plots.draw_epochs(course.rows, what=what, unit=of, best=course.rows[-1]["epoch"])
        title = f"{what.capitalize()} of every epoch so far"
        parts.append(page.section(title, page.plot(svg, label=f"{title}, as a line chart"), half=True))
    return parts
