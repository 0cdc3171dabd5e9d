"""All commands of the command line, with the words that lead to each."""

import typer.main

from clearsight.cli.main import app


def walk_commands(command=None, path=()):
    """Yields the words of every group and command, and the command."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name in getattr(command, "commands", {}):
        yield from walk_commands(command.get_command(None, name), (*path, name))
