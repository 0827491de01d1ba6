"""The arguments and options of ``graphprop explain``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from graphprop.cli.dataset_options import DATASET_OPTIONS, Target

Command = TypeVar("Command", bound=Callable[..., Any])

EXPLAIN_OPTIONS = (
    click.argument(
        "paths",
        nargs=-1,
        required=True,
        type=click.Path(path_type=Path),
        metavar="DIR... IMAGE...",
    ),
    click.option(
        "--target",
        type=Target(),
        metavar="K",
        help="The class to explain. Of a data set also label, its own; top:K, the K largest "
        "logits; or a .csv or .json of ids and classes.  [default: the largest logit]",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="OUT",
        help="A folder, for one picture a name ending in .png, or for a data set one in .zarr or "
        ".h5.  [default: explanations; for more than 100 pictures explanations.zarr]",
    ),
    click.option(
        "--shared-scale",
        is_flag=True,
        help="Draw all pictures on one scale, to compare their colors.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["python", "onnxruntime"]),
        default="python",
        show_default=True,
        help="What computes: DIR's explainer.py, or ONNX Runtime, which runs no code from DIR.",
    ),
    *DATASET_OPTIONS,
)


def explain_options(function: Command) -> Command:
    """Add the arguments and options that say what is explained, and how it is drawn."""
    for decorate in reversed(EXPLAIN_OPTIONS):
        function = decorate(function)
    return function
