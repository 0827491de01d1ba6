"""The arguments and options of ``graphprop explain``."""

from __future__ import annotations

from pathlib import Path

import click

from graphprop.cli.dataset_options import DATASET_OPTIONS, Target
from graphprop.cli.options import Command, with_options
from graphprop.cli.preprocessing_options import PREPROCESSING_OPTIONS

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
        help="The class to explain, by its number or name. Of a data set also label, its own; "
        "top:K, the K largest logits; or a .csv or .json of ids and classes.  [default: the "
        "largest logit]",
    ),
    click.option(
        "--top",
        type=click.IntRange(min=1),
        metavar="K",
        help="Explain the classes of the K largest logits, a panel each.",
    ),
    click.option(
        "--versus",
        metavar="K2",
        help="Explain why the class and not this one: the difference of their logits.",
    ),
    click.option(
        "--names",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="The names of all classes: a line each, or a JSON list.  [default: the model's]",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="OUT",
        help="A folder, for a drawing of each picture; or a name ending in .png, .svg or .pdf, for "
        "one of all; or, for a data set, in .zarr or .h5.  [default: explanations; for more than "
        "100 pictures explanations.zarr]",
    ),
    click.option(
        "--format",
        "ending",
        type=click.Choice(["png", "svg", "pdf"]),
        help="Of drawings in a folder.  [default: png]",
    ),
    click.option("--overlay", is_flag=True, help="Draw the map over the gray picture."),
    click.option(
        "--alpha",
        type=click.FloatRange(0, 1),
        metavar="A",
        help="How opaque it is there.  [default: 0.6]",
    ),
    click.option(
        "--cmap",
        metavar="NAME",
        help="Colors: seismic, colorblind (blue and orange), or one of matplotlib's.  [default: "
        "seismic]",
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(0, 100, min_open=True),
        metavar="P",
        help="End the scale at this percentile of the magnitudes.  [default: 100, the largest]",
    ),
    click.option(
        "--smooth",
        type=click.FloatRange(0, 100),
        metavar="SIGMA",
        help="Smooth maps by a Gaussian of SIGMA pixels; the drawing says so.  [default: 0]",
    ),
    click.option(
        "--size",
        type=click.IntRange(16, 4096),
        metavar="N",
        help="Draw each panel N pixels wide.  [default: small pictures are enlarged]",
    ),
    click.option(
        "--shared-scale",
        is_flag=True,
        help="Draw all maps on one scale, to compare their colors.",
    ),
    click.option("--raw", is_flag=True, help="Write each map alone, a pixel an entry."),
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
    return with_options(function, (*EXPLAIN_OPTIONS, *PREPROCESSING_OPTIONS))
