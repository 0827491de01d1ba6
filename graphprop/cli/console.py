"""What the command prints: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

JSON_VERSION = 1
"""The version of what ``--json`` prints: raised when a field changes its meaning or goes."""

WIDE = 10_000
"""The columns of what is no terminal: more than any table has, so that none is cut."""


class Output(Console):
    """A console that leaves it to the program what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        """Rich would exit here, with the code of a check that failed."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that takes no text for markup, and cuts nothing in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Output(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if stream.isatty() else WIDE,
    )


def printable(text: Any) -> str:
    """Text with whatever would steer a terminal shown as an escape."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def say(text: str = "") -> None:
    """Print a line of a result."""
    console().print(printable(text), soft_wrap=True)


def say_error(text: str) -> None:
    """Print the one message of a failure."""
    message = Text.assemble(("error: ", "bold red"), printable(text))
    console(stderr=True).print(message, soft_wrap=True)


def say_warning(text: str) -> None:
    """Print a warning."""
    message = Text.assemble(("warning: ", "bold yellow"), printable(text))
    console(stderr=True).print(message, soft_wrap=True)


def say_json(command: str, content: Mapping[str, Any]) -> None:
    """Print a result as JSON, all that there is on stdout."""
    document = {"version": JSON_VERSION, "command": command, **json_value(content)}
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def say_json_error(command: str | None, error: BaseException, text: str, code: int) -> None:
    """Print a failure as JSON: what kind it is, its text, and the exit code."""
    content = {"type": type(error).__name__, "message": text, "exit_code": code}
    document = {"version": JSON_VERSION, "command": command, "error": json_value(content)}
    click.echo(json.dumps(document, indent=2))


def json_value(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity become null, other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def say_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    headed: bool = True,
    indent: int = 0,
) -> None:
    """Print a table; a column whose cells are all numbers stands to the right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=headed
    )
    for index, header in enumerate(headers):
        right = bool(cells) and all(is_numeric(row[index]) for row in cells)
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    target = console()
    if target.is_terminal:
        target.print(Padding(table, (0, 0, 0, indent), expand=False))
        return
    with target.capture() as capture:
        target.print(table)
    for line in capture.get().splitlines():
        click.echo(" " * indent + line.rstrip())


def is_numeric(text: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def progress(start: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done, on a terminal only; gives a function to change it."""
    target = console(stderr=True)
    if not target.is_terminal:
        yield lambda text: None
        return
    with target.status(printable(start), spinner="line") as status:
        yield lambda text: status.update(printable(text))


def counts(names: Iterable[str]) -> str:
    """``"1 input, 12 conv_stack"``: how often each name occurs, in the order of first sight."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).items())
