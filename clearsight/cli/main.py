"""The entry point: subcommands, exit codes, and errors as one line. Imports nothing heavy."""

import atexit
import gc
import io
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from clearsight import __version__
from clearsight.cli.output import plain
from clearsight.errors import ClearsightError

# Commands by name: where each is, and what the list says. A module is imported when its command is asked for.
COMMANDS = {
    "train": ("train:train", "Train a model, evaluate it and write its report."),
    "evaluate": ("evaluate:evaluate", "Evaluate a model on labelled pictures."),
    "predict": ("evaluate:predict", "Predict the class of each picture, with probabilities."),
    "doctor": ("doctor:doctor", "Diagnose what went wrong in a training run."),
    "mistakes": ("mistakes:mistakes", "Show the worst mistakes, with explanations."),
    "report": ("runs:report", "Redraw the report of a run."),
    "lr-find": ("lr_find:lr_find", "Find a good learning rate."),
    "learning-curve": ("learning_curve:learning_curve", "Plot the error against the number of training pictures."),
    "models": ("models:models", "List the available networks and their sizes."),
    "tune": ("tune:tune", "Search for the best settings and train with them."),
    "cv": ("cv:cv", "Estimate performance by k-fold cross-validation."),
    "compare": ("compare:compare", "Test whether one model is really better than another."),
    "label-errors": ("label_errors:label_errors", "Find labels that are probably wrong."),
    "optimizers": ("optimizers:optimizers", "Draw the paths of optimisers on a test function."),
    "data": ("data:app", "Check, show, download, generate and cache data."),
    "runs": ("runs:app", "List, show, watch and remove runs."),
    "config": ("config:app", "Show the settings and their documentation."),
    "recipe": ("recipe:app", "Rerun published experiments."),
}


class _Commands(TyperGroup):
    """The commands, of which each is loaded when it is used."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself; None if there is none of this name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Names and summaries, which need no command."""
        width = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(width)) for name, one in self.commands.items()])


def load_command(name: str) -> Any:
    """The command of this name, from its module."""
    from importlib import import_module

    from clearsight.cli.settings import PanelCommand

    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"clearsight.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_CONTEXT)
        alone.command(name, cls=PanelCommand)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


_CONTEXT = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Commands,
    help="Train image classifiers and see why they work, or why they do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)


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
        code = _run()
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


def _run() -> int:
    """The exit code of the command; a reader that left is an error of its own, of which Typer makes exit code 1."""
    try:
        return app(standalone_mode=False) or 0
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise


def _end(message: str, code: int, error: BaseException) -> None:
    if os.environ.get("CLEARSIGHT_DEBUG"):
        raise error
    if sys.stderr is not None:
        print(f"error: {plain(message)}", file=sys.stderr)
    sys.exit(code)
