"""The entry point: subcommands, exit codes, and errors as one line. Imports nothing heavy."""

import atexit
import gc
import io
import os
import signal
import sys
from typing import Annotated, Any

import typer

from clearsight import __version__
from clearsight.cli import (
    compare,
    cv,
    data,
    evaluate,
    label_errors,
    learning_curve,
    lr_find,
    mistakes,
    models,
    optimizers,
    recipe,
    runs,
    train,
    tune,
)
from clearsight.cli import config as config_commands
from clearsight.cli.output import plain
from clearsight.errors import ClearsightError

app = typer.Typer(
    help="Train image classifiers and see why they work, or why they do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(evaluate.predict)
app.command("mistakes")(mistakes.mistakes)
app.command("report")(runs.report)
app.command("lr-find")(lr_find.lr_find)
app.command("learning-curve")(learning_curve.learning_curve)
app.command("models")(models.models)
app.command("tune")(tune.tune)
app.command("cv")(cv.cv)
app.command("compare")(compare.compare)
app.command("label-errors")(label_errors.label_errors)
app.command("optimizers")(optimizers.optimizers)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(config_commands.app, name="config")
app.add_typer(recipe.app, name="recipe")


_CTRL_C = 130
_STOPPED = "stopped at once, on request."
_WRONG_USE: Any = typer.BadParameter.__mro__[2]  # what Typer raises for a flag or argument that is wrong


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clearsight {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["CLEARSIGHT_DEBUG"] = "1"


_stop_code = _CTRL_C


def _terminate(number: int, frame: Any) -> None:
    """SIGTERM outside the training loop, which has its own answer to it, ends as Ctrl-C does, with another code."""
    global _stop_code
    _stop_code = 128 + number
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    # Libraries bring some million objects that stay: to look through them over and over, and once more at the end, takes a
    # third of a short run.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal cannot show must not end the program
    try:
        code = app(standalone_mode=False) or 0
        if code == _CTRL_C:  # what Typer makes of a KeyboardInterrupt
            _end(_STOPPED, _stop_code, KeyboardInterrupt())
        sys.exit(code)
    except ClearsightError as error:
        _end(str(error), error.exit_code, error)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error, typer.Abort) and not isinstance(error.__cause__, KeyboardInterrupt):
            _end("stopped, nothing was done.", 1, error)
        _end(_STOPPED, _stop_code, error)
    except _WRONG_USE as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # the reader left; nothing more can be said
        sys.exit(141)
    except MemoryError as error:
        _end(
            "memory must hold data and network, got none left. Use fewer pictures, or a smaller --hidden or --batch-size.",
            1,
            error,
        )
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        _end(f"files must be readable and writable, got: {error.strerror or error}{place}. Fix that first.", 1, error)


def _end(message: str, code: int, error: BaseException) -> None:
    if os.environ.get("CLEARSIGHT_DEBUG"):
        raise error
    if sys.stderr is not None:
        print(f"error: {plain(message)}", file=sys.stderr)
    sys.exit(code)
