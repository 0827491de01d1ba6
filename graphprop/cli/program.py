"""The program around the commands: what failures become, signals, and pipes that are closed."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

import click

from graphprop.cli import console
from graphprop.errors import GraphpropError
from graphprop.signals import EXIT_CODES, MESSAGES, raising_at_sigterm

DEBUG = "graphprop.debug"
ARGUMENTS = "graphprop.arguments"
"""Where click's context keeps --debug, and the arguments as they were given."""

BAD_INPUT = 2
"""The exit code where something that was given is wrong; click has the same for wrong usage."""

DEFECT = 3
"""The exit code of a defect in graphprop."""

NOBODY_READS = EXIT_CODES[signal.SIGPIPE]
"""The exit code where the reader of a pipe has closed it."""


class Terminated(BaseException):
    """The process was asked to end; files being written are removed on the way out.

    No `SystemExit`: the user's code may raise that, which is an error in it.
    """


class Program(click.Group):
    """The commands, every failure of which becomes one message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; a name that the terminal can't show is escaped."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # it was closed before the program began
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        code: Any = 0
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            code = end.code
        except OSError as error:  # while help is shown: what commands raise doesn't get here
            code = unwritable(error)
        # what is buffered is written now: Python's own complaint about it could not be caught
        trouble = flushed()
        sys.exit(code or trouble)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line; help is shown meanwhile."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            raise click.exceptions.Exit(NOBODY_READS) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they are used."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what was given: where the options themselves are wrong, --json counts too."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        given = ctx.meta[ARGUMENTS]
        as_json = "--json" in given
        name = next((word for word in given if word in self.commands), None)
        try:
            with raising_at_sigterm(Terminated):
                return super().invoke(ctx)
        except click.UsageError as error:
            if as_json:
                console.say_json_error(name, error, error.format_message(), error.exit_code)
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click's own
        except BrokenPipeError:
            ctx.exit(NOBODY_READS)
        except (Exception, KeyboardInterrupt, Terminated) as error:
            code, text = verdict(error)
            with suppress(OSError):
                if ctx.meta.get(DEBUG):
                    traceback.print_exc()
                console.say_error(text)
                if as_json:
                    console.say_json_error(name, error, text, code)
            ctx.exit(code)


def flushed() -> int:
    """Write what is buffered for stdout; the exit code where that fails, else 0."""
    try:
        sys.stdout.flush()
    except ValueError:  # it was closed
        return 0
    except OSError as error:
        return unwritable(error)
    return 0


def unwritable(error: OSError) -> int:
    """Report that stdout can't be written, and send the rest to nowhere; the exit code."""
    with suppress(OSError, ValueError):  # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return NOBODY_READS
    with suppress(OSError):
        console.say_error(f"the result can't be written: {error.strerror}")
    return BAD_INPUT


def verdict(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of a failure."""
    if isinstance(error, GraphpropError):
        return error.exit_code, str(error)
    for kind, number in ((KeyboardInterrupt, signal.SIGINT), (Terminated, signal.SIGTERM)):
        if isinstance(error, kind):
            return EXIT_CODES[number], MESSAGES[number]
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return BAD_INPUT, f"{where}{error.strerror}"
    text = str(error).strip().partition("\n")[0]
    system = re.search(r"os error (\d+)", text)  # how Rust reports one: safetensors
    if system:
        return BAD_INPUT, os.strerror(int(system[1]))
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return BAD_INPUT, (
            f"there is not enough memory ({text or 'MemoryError'}): use a smaller input, or a "
            "machine with more memory"
        )
    return DEFECT, (
        f"{type(error).__name__}: {text}. This is a defect in graphprop, not in what you gave it: "
        "run again with --debug for the traceback, and report it"
    )
