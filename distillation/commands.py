"""What all commands share: one form of error, and one set of exit codes.

    0      it is done
    1      something that the user can mend: one line on standard error, `Error: ...`
    2      the command line itself: how the command is used, then a line of the same form
    130    stopped by Ctrl-C, 143 by SIGTERM: one line that says how to go on (`distillation.stopping`)

Anything else is a fault of this software and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, Any

import click

from distillation.console import leave_bars, print_anything
from distillation.errors import DistillationError, one_line


class ReportedError(click.ClickException):
    """A `DistillationError` on its way to the terminal: click shows its message alone and exits with 1."""

    def __init__(self, error: DistillationError) -> None:
        super().__init__(one_line(error))
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line; by `print`, since click's own writing fails where a terminal lacks a character."""
        print(f"Error: {self.message}", file=file or sys.stderr)


class Command(click.Command):
    """A command whose `DistillationError` is one line."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command.

        Raises:
            ReportedError: in place of a `DistillationError`.
        """
        try:
            return super().invoke(context)
        except DistillationError as error:
            leave_bars()
            raise ReportedError(error) from error


def exit_code(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command under the `name` that was typed, and return its exit code. The output takes every text.

    Args:
        command: a click command.
        arguments: those of this process, if none are given.
        name: such as `python -m distillation.audit`, for the line that says how it is used.
    """
    print_anything()
    try:
        command.main(None if arguments is None else list(arguments), prog_name=name)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
