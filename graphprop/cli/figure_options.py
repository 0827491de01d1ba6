"""The options of ``graphprop figure``."""

from __future__ import annotations

from pathlib import Path

import click

from graphprop import builtin
from graphprop.cli.options import COMPARED_OPTIONS, Command, with_options

FIGURE_OPTIONS = (
    click.argument("kind", type=click.Choice(builtin.FIGURES), metavar="KIND"),
    click.argument(
        "paths", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR...] [IMAGE...]"
    ),
    click.option(
        "-o",
        "output",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where to write: a .png, .svg or .pdf.",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="DATA",
        help="Draw cases of this in place of pictures: what `graphprop evaluate` reads.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=1),
        metavar="N",
        help="Draw so many cases of DATA, chosen at random.  [default: 4]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="S",
        help="Of everything random.",
    ),
    click.option(
        "--every-class",
        is_flag=True,
        help="Draw all classes of each picture of DATA that is chosen.",
    ),
    click.option(
        "--target",
        "targets",
        multiple=True,
        metavar="K",
        help="Explain each picture for this class, a number or a name of --classes. Repeatable.  "
        "[default: DATA's labels, or the largest logit]",
    ),
    *COMPARED_OPTIONS,
    click.option(
        "--resize",
        type=click.Choice(["cover", "stretch"]),
        default="cover",
        show_default=True,
        help="Scale a picture of DATA to cover the input and crop it to the center, or stretch it.",
    ),
    click.option(
        "--boxes", is_flag=True, help="Use the boxes of objects where there are masks, too."
    ),
    click.option(
        "--baseline",
        "chosen_baselines",
        multiple=True,
        type=click.Choice(builtin.BASELINES),
        help="Draw this map that knows nothing of the network, too. Repeatable.",
    ),
    click.option(
        "--columns",
        type=click.IntRange(min=1),
        metavar="N",
        help="panel: methods beside each other.  [default: 8]",
    ),
    click.option(
        "--layer",
        "layer",
        multiple=True,
        metavar="PATTERN",
        help="layers: draw the layers that this names. Repeatable.  [default: a choice over depth]",
    ),
    click.option(
        "--count",
        type=click.IntRange(min=1),
        metavar="N",
        help="layers: how many are chosen where none are named.  [default: 8]",
    ),
    click.option(
        "--pair",
        "pairs",
        multiple=True,
        metavar="A,B",
        help="signs: set the maps of these two explainers side by side. Repeatable.",
    ),
    click.option(
        "--top",
        type=click.FloatRange(0, 100, min_open=True),
        multiple=True,
        metavar="K",
        help="topk: keep K % of the pixels. Repeatable.  [default: 10]",
    ),
    click.option(
        "--fill",
        metavar="NAME",
        help="topk: what replaces the others: zero, minimum, mean, noise, shuffle, blur or road.  "
        "[default: blur]",
    ),
    click.option(
        "--value",
        type=click.Choice(["score", "sigmoid", "logit"]),
        help="topk: what is written of a prediction.  [default: score]",
    ),
    click.option(
        "--metric",
        multiple=True,
        metavar="NAME",
        help="curves: draw this metric's. Repeatable.  [default: all]",
    ),
    click.option(
        "--depths",
        type=click.IntRange(min=1),
        metavar="N",
        help="sanity: maps after so many numbers of layers.  [default: 4]",
    ),
)


def figure_options(function: Command) -> Command:
    """Add the arguments and options that say what is drawn, and of what."""
    return with_options(function, FIGURE_OPTIONS)
