"""Pages: HTML files that hold all they show, written by templates that escape what they are given.

A page's policy forbids everything but the one style and the one script in it, which it names by
their hashes: no name in a network can become code, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprop.drawing.graph import Graph
from graphprop.drawing.svg import STYLE, draw, facts_of
from graphprop.drawing.text import printable, times
from graphprop.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@cache
def templates_in(folder: Path) -> Environment:
    """The templates of a folder; what they show is escaped, and is all defined."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"printable": lambda value: printable(str(value)), "times": times}
    return found


def rendered(template: str, *, script: str = "", **content: Any) -> str:
    """Fill a template; its style is that of pages, pictures and its own."""
    parts = (TEMPLATES / "page.css", (TEMPLATES / template).with_suffix(".css"))
    own = [path.read_text(encoding="utf-8") for path in parts if path.exists()]
    style = "".join([*own, STYLE])
    return templates_in(TEMPLATES).get_template(template).render(
        style=style,
        style_hash=hash_of(style),
        script=script,
        script_hash=hash_of(script),
        version=__version__,
        **content,
    )  # fmt: skip


def hash_of(text: str) -> str:
    """The hash by which a policy allows a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def network_page(graph: Graph) -> str:
    """A page with the drawing of a network, and all that is known about each layer as a table.

    Raises
    ------
    OutputError
        If the network is none: see `graphprop.drawing.graph.graph_of`.
    """
    layers = [dict(facts_of(layer)) for layer in graph.layers]
    names = [name for name in layers[0] if any(layer[name] for layer in layers)]
    return rendered(
        "network.html", graph=graph, picture=draw(graph, style=False), names=names, layers=layers
    )
