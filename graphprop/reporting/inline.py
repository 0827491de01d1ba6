"""Figures of matplotlib as a part of a page whose policy forbids styles that it doesn't know.

Style attributes become attributes, colors become classes of the page's own style sheet, so that a
chart follows the reader's choice of dark or light; and nothing in the chart refers to anything
outside it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from graphprop.drawing.text import printable

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"

NAMES = ("ink", "dim", "grid", "paper", *(f"c{number}" for number in range(8)))
COLORS = {name: f"#0101{number:02x}" for number, name in enumerate(NAMES, 16)}
"""What a chart is drawn in: colors that stand for those of the style sheet."""

WIDTH = 5.0
"""The width of a chart in inches: 360 units, so that its letters can be read on a phone."""
LETTERS = 8.5
"""The size of letters, in the same units."""

KEPT = frozenset(
    "fill stroke stroke-width stroke-dasharray stroke-linejoin stroke-linecap opacity "
    "fill-opacity stroke-opacity font-size font-weight text-anchor".split()
)
"""The properties of style attributes that matter; the rest is fonts."""


@contextmanager
def drawing(height: float, salt: str) -> Iterator[tuple[Any, Any]]:
    """A figure of this height in inches and its axes, drawn in colors that stand for others."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": LETTERS,
        "axes.edgecolor": COLORS["dim"],
        "axes.labelcolor": COLORS["ink"],
        "text.color": COLORS["ink"],
        "xtick.color": COLORS["dim"],
        "ytick.color": COLORS["dim"],
        "xtick.labelcolor": COLORS["ink"],
        "ytick.labelcolor": COLORS["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": COLORS["grid"],
        "grid.linewidth": 0.6,
        "hatch.linewidth": 0.8,
        "legend.frameon": False,
        "text.parse_math": False,  # names are text
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has other fonts
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def as_svg(figure: Any, title: str, description: str) -> Markup:
    """A figure as an ``svg`` element, with a title and a description for who can't see it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(text.getvalue())
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {"viewBox": f"0 0 {width} {height}", "class": "chart", "role": "img"}
    root.set("aria-label", printable(f"{title}. {description}"))
    for child in [c for c in root if c.tag == f"{{{SVG}}}metadata"]:
        root.remove(child)
    for parent in root.iter():
        for child in [c for c in parent if c.tag == f"{{{SVG}}}style"]:
            parent.remove(child)
    for element in root.iter():
        simplify(element)
    used = {v for e in root.iter() for a in e.attrib.values() for v in re.findall(r"#([\w.-]+)", a)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    caption = ElementTree.Element(f"{{{SVG}}}title")
    caption.text = printable(title)
    root.insert(0, caption)
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def simplify(element: ElementTree.Element) -> None:
    """Make a style attribute attributes and classes, and links those of HTML."""
    link = element.attrib.pop(LINK, None)
    if link is not None:
        element.set("href", link)
    style = element.attrib.pop("style", "")
    classes = []
    for part in style.split(";"):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name in ("fill", "stroke") and value in COLORS.values():
            color = next(key for key, other in COLORS.items() if other == value)
            classes.append(f"{name[0]}-{color}")
        elif name in KEPT:
            element.set(name, value.removesuffix("px") if name == "font-size" else value)
    if classes:
        element.set("class", " ".join(classes))


def style_sheet() -> str:
    """The rules that give a chart's classes the page's colors."""
    return "".join(
        f".chart .f-{name}{{fill:var(--{name})}}\n.chart .s-{name}{{stroke:var(--{name})}}\n"
        for name in NAMES
    )
