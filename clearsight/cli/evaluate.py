"""`clearsight evaluate` and `clearsight predict`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import option
from clearsight.cli.output import begins_with, plain, print_json, print_notes, render_judged, tell
from clearsight.errors import RunError, UsageError


def evaluate(
    model: Annotated[str, typer.Argument(help="Model file or run directory.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Name or path of labelled data; by default the data of the run.", show_default=False),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on: train, valid, test or all.", show_default=False)
    ] = None,
    label_column: Annotated[
        str, typer.Option(help="Label column of a CSV or metadata.csv: first, last, a header name or auto.")
    ] = "auto",
    target: options.Target = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip pictures that cannot be read.")] = False,
    follow_links: options.FollowLinks = False,
    max_megapixels: options.MaxMegapixels = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a model: accuracy with its interval, loss, confusion matrix and metrics per class."""
    from clearsight.actions.evaluate import evaluate as evaluate_model
    from clearsight.bundle.load import load
    from clearsight.core.progress import build_meter

    bundle = load(model)
    print_notes(bundle.notes, quiet=quiet)
    evaluation = evaluate_model(
        bundle,
        data,
        split=split,
        label_column=target or label_column,
        skip_bad=skip_bad,
        follow_links=follow_links,
        max_megapixels=max_megapixels,
        note=tell(quiet=quiet),
        meter=build_meter(quiet=quiet),
    )
    if json_:
        print_json({"model": model, "data": data, "split": evaluation.split, **evaluation.as_dict()})
        return
    typer.echo(render_judged(evaluation))


def predict(
    model: Annotated[str, typer.Argument(help="Model file or run directory.")],
    pictures: Annotated[
        list[Path],
        typer.Argument(help="Picture files; folders, zips or tars of them; or .npy arrays like the training pictures."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show per picture.")] = 3,
    abstain_below: Annotated[
        float,
        typer.Option(
            "--abstain-below", help="Give no answer if the confidence is lower than this.", show_default=False
        ),
    ] = 0.0,
    sets: Annotated[
        float | None,
        option("Also give a set of classes that contains the true one with this probability, such as 0.9.", "--sets"),
    ] = None,
    out: Annotated[
        Path | None, option("Write a CSV file with one row per picture instead of printing the answers.", "--out")
    ] = None,
    max_megapixels: options.MaxMegapixels = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict the class of each picture, with probabilities. Warns of pictures unlike those that the model was trained on."""
    from clearsight.actions.evaluate import find_limit, own_config
    from clearsight.bundle.load import load
    from clearsight.bundle.predict import predict_files, render_table
    from clearsight.core.progress import build_meter
    from clearsight.runs.store import write_text

    if out is not None:
        _refuse_other(out)
    bundle = load(model)
    print_notes(bundle.notes, quiet=quiet)
    answers, problems = predict_files(
        bundle, pictures, abstain_below=abstain_below, sets=sets, meter=build_meter(quiet=quiet),
        max_pixels=find_limit(own_config(bundle), max_megapixels), leave_out=out,
    )  # fmt: skip
    level = bundle.known.level if bundle.known else 0.0
    if bundle.known and not bundle.known.can_tell:
        count = len(bundle.known.distances)
        print_notes(
            [
                f"unusual pictures cannot be recognised: only {count} pictures were held out in training, too few for that"
            ],
            quiet=quiet or json_,
        )
    text = f"is unlike the pictures that the model was trained on: {level:.1%} of pictures like those are closer"
    far = [f"{a['name']} {text}" for a in answers if a.get("far")]
    print_notes(far, quiet=quiet or json_)
    print_notes([f"{a['name']} {note}" for a in answers for note in a.get("notes", ())], quiet=quiet or json_)
    if out is not None:
        write_text(out.resolve(), render_table(answers, bundle.class_names))
    if json_:
        print_json({"model": model, "predictions": answers, "out": str(out) if out else None})
    elif out is not None:
        typer.echo(plain(out))
    else:
        for answer in answers:
            typer.echo(plain(_render(answer, top)))
    if problems:
        raise problems[0]


def _refuse_other(out: Path) -> None:
    """Only a new file in a folder that can be written, or one that an earlier prediction wrote, is written."""
    from tempfile import TemporaryFile

    from clearsight.bundle.predict import TABLE_HEAD

    new = not out.exists() and not out.is_symlink()
    try:
        if not (new or (out.is_file() and begins_with(out, ",".join(TABLE_HEAD).encode()))):
            raise UsageError(f"--out must name a new CSV or one of predictions, got {out}. Choose another name.")
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise RunError(f"{out} must be writable, got: {error.strerror}. Choose another place with --out.") from None


def _render(answer: dict[str, Any], top: int) -> str:
    if "error" in answer:
        return f"{answer['name']}  error: {answer['error']}"
    if "number" in answer:
        return f"{answer['name']}  {answer['number']:.4g}"
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:top]
    shares = "  ".join(f"{name} {share:.4f}" for name, share in ranked)
    abstained = "" if answer["label"] is not None else "no answer: "
    inside = f"  one of {{{', '.join(answer['set'])}}}" if "set" in answer else ""
    return f"{answer['name']}  {abstained}{shares}{inside}"
