"""The options of ``graphprop page``."""

from __future__ import annotations

from pathlib import Path

import click

from graphprop.cli.options import Command, with_options

PAGE_OPTIONS = (
    click.argument("directory", type=click.Path(path_type=Path), metavar="DIR"),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default="site",
        show_default=True,
        metavar="SITE",
        help="The folder to write.",
    ),
    click.option(
        "--title", metavar="TEXT", help="The page's heading.  [default: the network's name]"
    ),
    click.option(
        "--example",
        "examples",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="IMAGE",
        help="A picture that visitors can choose. Repeatable.",
    ),
    click.option(
        "--runtime",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="The files of onnxruntime-web.  [default: fetched by npm once]",
    ),
    click.option("--no-webgpu", is_flag=True, help="Leave WebGPU out, which is two thirds of it."),
    click.option("--no-try", is_flag=True, help="Do not try it in a headless Chromium first."),
    click.option(
        "--force", is_flag=True, help="Replace what graphprop wrote to SITE; other files stay."
    ),
)


def page_options(function: Command) -> Command:
    """Add the options to a command."""
    return with_options(function, PAGE_OPTIONS)
