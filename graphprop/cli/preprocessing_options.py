"""The options that say how a picture becomes an input."""

from __future__ import annotations

from typing import Any

import click

from graphprop.cli.options import Command, with_options

SINGLE = ("resize", "crop", "interpolation", "mean", "std", "channels", "range")
"""What single options say, by the names of `graphprop.frontend.preprocessing`."""


class Numbers(click.ParamType[Any]):
    """One number, or several with commas between them."""

    name = "numbers"

    def __init__(self, *, whole: bool = False, words: tuple[str, ...] = ()) -> None:
        self.kind, self.words = (int if whole else float), words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read them."""
        if not isinstance(value, str) or value in self.words:
            return value
        try:
            found = [self.kind(part) for part in value.split(",")]
        except ValueError:
            other = "".join(f", or {word}" for word in self.words)
            self.fail(f"{value!r}: give a number, or several with commas between them{other}")
        return found[0] if len(found) == 1 else found


PREPROCESSING_OPTIONS = (
    click.option(
        "--preprocessing",
        metavar="NAME|FILE",
        help="How a picture becomes an input: imagenet, zero-one, minus-one-one, or a JSON file "
        "(of Hugging Face or timm, too).",
    ),
    click.option(
        "--resize",
        type=Numbers(whole=True, words=("cover",)),
        metavar="N|H,W",
        help="Scale the shorter side to N pixels, or both sides; the center is then cut out.",
    ),
    click.option(
        "--crop",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="Keep so much of the shorter side, in place of --resize: 0.875.",
    ),
    click.option(
        "--interpolation",
        type=click.Choice(["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"]),
        help="How a picture is scaled.",
    ),
    click.option("--mean", type=Numbers(), metavar="M[,M,M]", help="What is subtracted."),
    click.option("--std", type=Numbers(), metavar="S[,S,S]", help="What it is divided by then."),
    click.option(
        "--channels",
        type=click.Choice(["RGB", "BGR"], case_sensitive=False),
        help="The order of the network's channels.",
    ),
    click.option(
        "--range",
        "range",
        type=Numbers(),
        metavar="LOW,HIGH",
        help="What black and white are before mean and std.  [default: 0,1]",
    ),
)


def preprocessing_options(function: Command) -> Command:
    """Add the options that say how a picture becomes an input."""
    return with_options(function, PREPROCESSING_OPTIONS)


def taken(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take these options out of a command's: the name or file, and what single ones say."""
    single = {name: options.pop(name) for name in SINGLE}
    return options.pop("preprocessing"), {k: v for k, v in single.items() if v is not None}
