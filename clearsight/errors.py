"""Every error that clearsight raises on purpose, and the exit code that each ends a command with.

    ClearsightError                 1   something failed
    ├── UsageError                  2   a flag, an argument or a configuration is wrong (also a ValueError)
    ├── DataError                   3   the data is not fit to train on (also a ValueError)
    ├── DivergedError               4   the loss stopped being finite; the last good weights are kept
    ├── ModelFileError              1   a model file is damaged, foreign or unsafe
    ├── RunError                    1   a run directory or checkpoint cannot be written, read or resumed
    └── Interrupted                130  Ctrl-C (143 for SIGTERM); everything was saved first

A message is a sentence: `<name> must <rule>, got <value> <where>. <Next action>.` It must know nothing else.
"""

from typing import Any


class ClearsightError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(ClearsightError, ValueError):
    """A flag, an argument or a configuration value is wrong."""

    exit_code = 2


class DataError(ClearsightError, ValueError):
    """The data cannot be read, or is not fit to train on."""

    exit_code = 3


class DivergedError(ClearsightError):
    """Training produced a loss that is not finite; `run` is the run with its last good weights."""

    exit_code = 4

    def __init__(self, message: str, run: Any = None) -> None:
        super().__init__(message)
        self.run = run


class ModelFileError(ClearsightError):
    """A model file is damaged, foreign, unsafe, or fails its self-test."""


class RunError(ClearsightError):
    """A run directory or a checkpoint cannot be written, read or resumed."""


class Interrupted(ClearsightError):
    """Training was asked to stop by a signal, and saved before it did."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
