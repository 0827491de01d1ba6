"""The options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from graphprop import builtin
from graphprop.cli.program import DEBUG

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(function: Command, options: Sequence[Callable[..., Any]]) -> Command:
    """Add arguments and options to a command, in the order in which its help shows them."""
    for decorate in reversed(options):
        function = decorate(function)
    return function


def completing(*names: str) -> Callable[..., list[str]]:
    """What completes an argument in the shell: the names that begin with what is typed."""
    return lambda ctx, parameter, typed: [name for name in names if name.startswith(typed)]


def complete_source(
    ctx: click.Context, parameter: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Let the shell complete a SOURCE as the name of a file."""
    return [CompletionItem(typed, type="file")]


def set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Remember --debug, wherever on the command line it stands."""
    if value:
        ctx.meta[DEBUG] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=set_debug,
    envvar="GRAPHPROP_DEBUG",
    help="Show the traceback of an error (also: GRAPHPROP_DEBUG=1).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def parse_shape(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Read ``C,H,W``."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no shape: give whole numbers without the batch, such as 3,224,224"
        ) from None


import_option = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Import a module, or run a .py file, that registers methods and rules. Repeatable.",
)

fit_option = click.option(
    "--fit",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="What methods with patterns are fitted to: a folder of pictures, an .npy or an .npz.",
)

MODEL_OPTIONS = (
    click.argument("source", shell_complete=complete_source),
    click.option(
        "--method",
        "-m",
        default=builtin.DEFAULT_METHOD,
        show_default=True,
        shell_complete=completing(*builtin.METHODS),
        metavar="NAME",
        help="Which rule each role gets: one that `graphprop methods` lists, or that the model's "
        "file registers.",
    ),
    import_option,
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a parameter of the method. Repeatable.",
    ),
    click.option(
        "--rule",
        "rules",
        multiple=True,
        metavar="PATTERN=RULE[:k=v,..]",
        help="Give the layers that a pattern names another rule. Repeatable, first match wins.",
    ),
    click.option(
        "--role",
        "roles",
        multiple=True,
        metavar="PATTERN=ROLE",
        help="Give them another role: input, conv_stack, dense_head, shortcut or logits.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Trained weights: .safetensors, or a state dict that torch.save wrote.",
    ),
    click.option(
        "--input-shape",
        callback=parse_shape,
        metavar="C,H,W",
        help="The shape of one input; by default that of the file's example_input.",
    ),
    click.option(
        "--output",
        "result",
        metavar="NAME",
        help="Which result to explain, of a model with several: a key or an index.",
    ),
)


def model_options(function: Command) -> Command:
    """Add the argument and the options that say which model is compiled, and how."""
    return with_options(function, MODEL_OPTIONS)


COMPARED_OPTIONS = (
    click.option(
        "--model",
        "source",
        metavar="SOURCE",
        help="Compile this model, as `graphprop compile` does.",
    ),
    click.option(
        "--method",
        "-m",
        "methods",
        multiple=True,
        shell_complete=completing(*builtin.METHODS),
        metavar="NAME",
        help="By this method. Repeatable.",
    ),
    click.option(
        "--sweep",
        metavar="KEY=V1,V2",
        help="By each method with each of these values of a parameter.",
    ),
    import_option,
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Trained weights of --model.",
    ),
    click.option(
        "--input-shape",
        callback=parse_shape,
        metavar="C,H,W",
        help="The shape of one input of --model; by default that of the file's example_input.",
    ),
    click.option("--output", "result", metavar="NAME", help="Which result of --model to explain."),
    fit_option,
    click.option(
        "--classes",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Names of the network's classes: a JSON list, or an object of name to class.",
    ),
    click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where the pictures of a COCO file lie.  [default: beside it]",
    ),
)
"""Which model is compiled by which methods, and what its classes and pictures are: of the commands
that compare methods."""


def compared_options(function: Command) -> Command:
    """Add the options of the commands that compare methods."""
    return with_options(function, COMPARED_OPTIONS)
