"""The one-file HTML report of a finished run, made from the run's plain files alone.

It must not know how a run was trained, nor change any of its numbers: it can be written again at any later time.
"""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.config.build import rename_old
from clearsight.diagnose.case import Case
from clearsight.diagnose.examine import examine
from clearsight.errors import RunError
from clearsight.models.mlp import MLP
from clearsight.pipeline.case import read_case
from clearsight.report import diagnostics, page, pictures, plots, words
from clearsight.report.confidence import render_confidence
from clearsight.report.diagnosis import render_section
from clearsight.report.inside import render_inside
from clearsight.report.text import find_confused_pairs
from clearsight.report.unfinished import write_unfinished
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.record import ENDED
from clearsight.runs.results import read_results, read_text
from clearsight.training.history import History

HISTORY_PICTURE = "history.svg"
SPLITS = ("train", "valid", "test")
_MAX_UNITS, _MAX_PAIRS, _MAX_NARROW_CLASSES = 64, 5, 12
_LOSS_NOTES = {
    plots.NATS: "Mean cross-entropy of each batch before its update.",
    plots.SQUARES: "Of each batch before its update, with targets scaled to mean 0 and deviation 1 over the training rows.",
}


@dataclass(frozen=True, eq=False)
class _Files:
    """What the files of a finished run hold."""

    config_text: str
    environment: dict[str, Any]
    record: dict[str, Any]
    metrics: dict[str, Any]
    history: History
    shown: dict[str, NDArray[Any]]
    signals: dict[str, Any]
    case: Case
    model: Bundle

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Metrics of the splits that exist."""
        return {split: self.metrics[split] for split in SPLITS if self.metrics.get(split)}

    @property
    def judged(self) -> str:
        """The split that the run is judged by."""
        return str(self.metrics["mistakes_split"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration by section and key."""
        return tomllib.loads(self.config_text)

    @property
    def depth(self) -> str:
        """How much of the network was trained: `head`, `last` or `all`."""
        model = rename_old(self.settings).get("model", {})
        if not model.get("pretrained"):
            return "all"
        return "head" if (depth := model.get("finetune", "auto")) == "auto" else str(depth)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Empty for a regression."""
        return self.model.class_names

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Of the judged split, (K, K)."""
        return np.array(self.evaluations[self.judged]["confusion"], np.int64)

    @property
    def loss_unit(self) -> str:
        """Unit of the losses in the history."""
        return plots.NATS if self.class_names else plots.SQUARES


def write_report(path: Path) -> Path:
    """Write `report.html` and `history.svg` of a finished run; of another, what is there so far, see `write_unfinished`.

    Args:
        path: its run directory.

    Returns:
        Where the report lies.

    Raises:
        RunError: a file is missing or damaged, or the folder not writable. ModelFileError: the same of the model.
    """
    if (
        not RunDirectory(path).metrics.is_file()
        and store.read_json(RunDirectory(path).record).get("status") not in ENDED
    ):
        return write_unfinished(path)
    files = _read_files(path)
    report = RunDirectory(path).report
    try:
        text = render_report(files)
        picture = plots.draw_history(files.history.epochs, unit=files.loss_unit, best=files.metrics["epoch"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunError(
            f"the files of {path} must be whole, got damage ({error!r}). Restore them or train again."
        ) from None
    store.write_text(report, text)
    store.write_text(path / HISTORY_PICTURE, picture + "\n")
    return report


def render_report(files: _Files) -> str:
    """The report as one HTML text."""
    classes = bool(files.class_names)
    parts = [
        _render_divergence(files),
        _render_headline(files),
        render_section(examine(files.case)),
        _render_splits(files),
        *([_render_mistakes(files), _render_confidence(files), _render_bias(files)] if classes else []),
        *([_render_confusion(files), _render_classes(files), _render_pairs(files)] if classes else []),
        _render_losses(files),
        _render_epochs(files),
        "" if classes else _render_parity(files),
        "" if files.depth == "head" else diagnostics.render_activations(files.signals),
        render_inside(files.case.probes),
        "" if files.depth in ("head", "last") else _render_first_layer(files),
        _render_weight_history(files),
        "" if files.depth == "head" else _render_rates(files),
        *page.origin_sections(files.config_text, files.environment),
    ]
    return page.render_page(f"{files.record['data']}: {files.record['model']} – clearsight", parts)


def _read_files(path: Path) -> _Files:
    place = RunDirectory(path)
    metrics, history = read_results(path)
    return _Files(
        read_text(place.config),
        store.read_json(place.environment),
        store.read_json(place.record),
        metrics,
        history,
        _read_arrays(place.shown),
        store.read_json(place.probes) if place.probes.is_file() else {},
        read_case(path, (metrics, history)),
        load(place.model),
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise RunError(f"run must hold {path.name}, got {path}: {error}. Is {path.parent} a run directory?") from None
    except SafetensorError as error:
        raise RunError(f"{path} must be safetensors, got damage ({error}). Restore the file or train again.") from None


def _render_headline(files: _Files) -> str:
    record, metrics, judged = files.record, files.metrics, files.judged
    of = files.evaluations[judged]
    if files.class_names:
        score, what, text = words.percent(of["accuracy"]), "accuracy", words.describe_accuracy(judged, of)
    else:
        score, what, text = words.number(of["mae"]), "mean absolute error", words.describe_error(judged, of)
    step = metrics.get("next_step")
    done = f"{len(files.history.epochs)} epochs in {_format_seconds(metrics['seconds'])}"
    meta = (
        f"network {record['model']} · {metrics['parameters']:,} parameters · {metrics['status']}, weights of epoch "
        f"{metrics['epoch']} · {done} · {record['created'].replace('T', ' ')}"
    )
    return page.render(
        "headline",
        name=record["data"],
        meta=meta,
        score=score,
        what=f"{words.NAMES[judged]} {what}",
        text=text,
        step=step,
    )


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _render_divergence(files: _Files) -> str:
    if files.metrics["status"] != "diverged":
        return ""
    text = words.describe_divergence(
        files.history.step_losses, steps_per_epoch=files.history.steps_per_epoch, epoch=files.metrics["epoch"]
    )
    return page.render("alert", title="Training diverged:", text=text)


def _render_splits(files: _Files) -> str:
    evaluations = files.evaluations
    if files.class_names:
        header: tuple[str, ...] = ("split", "n", "accuracy", "95 % interval", "loss (nats)")
        cells = [
            (words.percent(m["accuracy"]), words.interval(m), words.number(m["loss"])) for m in evaluations.values()
        ]
    else:
        header = ("split", "n", "mean absolute error", "R²", "mean squared error")
        cells = [(words.number(m["mae"]), words.number(m["r2"]), words.number(m["loss"])) for m in evaluations.values()]
    rows = [(split, f"{m['n']:,}", *cell) for (split, m), cell in zip(evaluations.items(), cells, strict=True)]
    return page.section(
        "Training, validation and test",
        page.table(header, rows),
        page.paragraph(words.describe_gap(evaluations, files.judged)),
    )


def _render_losses(files: _Files) -> str:
    losses = files.history.step_losses
    svg = plots.draw_losses(losses, steps_per_epoch=files.history.steps_per_epoch, unit=files.loss_unit)
    label = f"Loss of each of {len(losses)} batches, as a line chart"
    note = page.paragraph(_LOSS_NOTES[files.loss_unit], kind="note")
    return page.section("Loss of every batch", page.plot(svg, label=label), note, half=True)


def _render_epochs(files: _Files) -> str:
    what, unit = ("accuracy", "%") if files.class_names else ("loss", files.loss_unit)
    title = f"{what.capitalize()} of every epoch"
    if not files.history.epochs:
        return page.section(title, page.paragraph("No epoch was completed."), half=True)
    svg = plots.draw_epochs(files.history.epochs, what=what, unit=unit, best=files.metrics["epoch"])
    note = "Training: mean over the epoch's batches while the weights changed. Validation: after the epoch."
    label = f"{title} in training and validation, as a line chart"
    return page.section(title, page.plot(svg, label=label), page.paragraph(note, kind="note"), half=True)


def _is_narrow(files: _Files) -> bool:
    """Whether the confusion matrix can be read at half the page's width, beside the table of classes."""
    return len(files.class_names) <= _MAX_NARROW_CLASSES


def _render_confusion(files: _Files) -> str:
    svg = plots.draw_confusion(files.confusion, files.class_names)
    note = (
        "Rows are true classes and columns are answers. Blue cells are right and orange cells wrong; darker means a larger "
        "share of the row (by its square root, so that rare mistakes show). Empty cells are 0."
    )
    label = f"Confusion matrix of {len(files.class_names)} classes on {files.judged}; the most frequent mistakes are listed below"
    return page.section(
        f"Confusion matrix ({files.judged})",
        page.plot(svg, label=label),
        page.paragraph(note, kind="note"),
        half=_is_narrow(files),
    )


def _render_classes(files: _Files) -> str:
    header = ("class", "pictures", "precision", "recall", "F1")
    rows = [
        (
            c["name"],
            f"{c['support']:,}",
            *(words.percent(c[key]).removesuffix(" %") for key in ("precision", "recall", "f1")),
        )
        for c in files.evaluations[files.judged]["classes"]
    ]
    note = (
        "Shares in per cent. Precision: of the answers with this class, how many are right. Recall: of the pictures of this "
        "class, how many are found. F1: their harmonic mean. A dash means that there is nothing to divide by."
    )
    return page.section(
        f"Classes ({files.judged})", page.table(header, rows), page.paragraph(note, kind="note"), half=_is_narrow(files)
    )


def _render_pairs(files: _Files) -> str:
    names = files.class_names
    lines = [
        f"{names[t]} taken for {names[a]}: {n:,} of {rows:,}"
        for t, a, n, rows in find_confused_pairs(files.confusion, count=_MAX_PAIRS)
    ]
    return page.section(f"Most confused pairs ({files.judged})", page.items(lines, numbered=True)) if lines else ""


def _render_mistakes(files: _Files) -> str:
    found, scaling = files.metrics["mistakes"], files.model.preprocess
    title = f"Worst mistakes ({files.judged})"
    if not found:
        asked = files.settings.get("eval", {}).get("mistakes", 1)
        return page.section(
            title, page.paragraph("No mistakes." if asked else "None were asked for (eval.mistakes = 0).")
        )
    if scaling.height == 1 or "mistakes" not in files.shown:
        rows = [(m["row"], m["true"], m["answer"], words.number(m["loss"])) for m in found]
        return page.section(title, page.table(("row", "true", "answer", "loss (nats)"), rows))
    items = [
        (
            pictures.draw_picture(pixels, low=scaling.low, high=scaling.high),
            f"{m['true']} taken for {m['answer']}",
            (f"{m['true']} → {m['answer']}", f"loss {words.number(m['loss'])}", m["row"]),
        )
        for pixels, m in zip(files.shown["mistakes"], found, strict=True)
    ]
    note = "True class → answer, the largest loss (nats) first."
    shape = f"{scaling.width}/{scaling.height}"
    return page.section(title, page.paragraph(note, kind="note"), page.pictures(items, cell="6.5rem", shape=shape))


def _render_confidence(files: _Files) -> str:
    return render_confidence(files.metrics[files.judged], judged=files.judged)


def _render_bias(files: _Files) -> str:
    floor = files.settings.get("eval", {}).get("floor")
    return diagnostics.render_errors(
        files.evaluations, files.judged, data=str(files.record["data"]), floor=floor, head=files.depth == "head"
    )


def _render_parity(files: _Files) -> str:
    training = files.model.training
    return diagnostics.render_parity(
        files.shown.get("parity"), low=training.get("target_low"), high=training.get("target_high"), judged=files.judged
    )


def _render_first_layer(files: _Files) -> str:
    scaling, net = files.model.preprocess, files.model.net
    if scaling.height == 1:
        return ""
    if isinstance(net, MLP):
        weights, _ = net.layers(files.model.params)[0]
        height, width, units = scaling.height, scaling.width, weights.shape[1]
        maps = pictures.first_layer_maps(weights[:, :_MAX_UNITS], height=height, width=width, channels=scaling.channels)
        hidden, what = net.num_layers > 1, "hidden unit" if net.num_layers > 1 else "output"
    else:
        filters = next(values for values in net.tensors(files.model.params).values() if values.ndim == 4)
        maps, units = filters[:_MAX_UNITS].mean(axis=1), len(filters)
        height, width, hidden, what = *filters.shape[2:], True, "filter"
    limit = float(np.abs(maps).max())
    names = (
        [f"{what.split()[-1]} {k}" for k in range(len(maps))] if hidden or not files.class_names else files.class_names
    )
    items = [
        (pictures.draw_weights(picture, limit=limit), f"weights of {name}", (name,))
        for picture, name in zip(maps, names, strict=False)
    ]
    which = f"the first {len(maps)} of {units} {what}s" if units > len(maps) else f"each {what}"
    mean = ", averaged over channels" if scaling.channels > 1 else ""
    text = f"Weights into {which}{mean}, on one scale:"
    legend = page.render("ramp", text=text, low=f"−{limit:.3g}", high=f"{limit:.3g}", end="; white is 0.")
    grid = page.pictures(items, cell="4.5rem", shape=f"{width}/{height}")
    return page.section("Weights of the first layer", legend, grid)


def _render_weight_history(files: _Files) -> str:
    kept = files.shown.get("weights")
    if kept is None:
        return ""
    net = files.model.net
    layers = {
        name: values
        for name, values in net.tensors(kept).items()
        if values.ndim > 2 and (len(kept) == 1 or not np.array_equal(values[0], values[-1]))  # no frozen layers
    }
    if not layers:
        return ""
    names = []
    for k, (name, values) in enumerate(layers.items(), 1):
        size = " × ".join(map(str, values.shape[1:]))
        names.append(f"Layer {k}: {size}" if isinstance(net, MLP) else f"{name}: {size}")
    svg = plots.draw_weight_history([values.reshape(len(kept), -1) for values in layers.values()], names)
    note = "Light: single weights, up to 200 a layer. Dark: median, 5 and 95 % of the layer's weights."
    if len(layers) > plots.MAX_LAYERS:
        note += f" {plots.MAX_LAYERS} of {len(layers)} layers are shown."
    label = "Course of the weights of each layer over the epochs, as line charts"
    return page.section("Weights over the epochs", page.plot(svg, label=label), page.paragraph(note, kind="note"))


def _render_rates(files: _Files) -> str:
    svg = plots.draw_learning_rate(files.history.step_lrs, steps_per_epoch=files.history.steps_per_epoch)
    return page.section("Learning rate", page.plot(svg, label="Learning rate of every batch, as a line chart"))
