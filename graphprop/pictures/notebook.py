"""What explanations and explainers show in a notebook: HTML that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from graphprop.explainer import LayerInfo
from graphprop.pictures.writing import rendered

if TYPE_CHECKING:
    from graphprop.pictures.explain import Explanations

MOST = 24
"""Maps that a notebook shows at once; the others are in the object."""


def picture(image: Image.Image, about: str) -> str:
    """A picture as an element that holds it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(about)}" style="max-width:100%" src="data:image/png;base64,{data}">'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts."""
    head = "".join(f'<th style="text-align:left">{escape(text)}</th>' for text in headers)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{escape(str(cell))}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def explanations_html(found: Explanations) -> str:
    """The figure of explanations, and their warnings."""
    from graphprop.pictures.drawing import figure_of

    maps = found.maps[:MOST]
    about = "; ".join(f"{one.name}: {one.question}, {one.score}, by {one.method}" for one in maps)
    parts = [picture(rendered(figure_of(maps, found.style)), about)]
    if len(found.maps) > MOST:
        parts.append(f"<p>{len(found.maps) - MOST} more maps: plot() draws all.</p>")
    parts += [f"<p>warning: {escape(text)}</p>" for text in found.warnings]
    return "<div>" + "".join(parts) + "</div>"


def explainer_html(explainer: Any) -> str:
    """What an explainer is: the network, the method, each layer with its rule."""
    inputs = " and ".join("\u00d7".join(map(str, shape)) for shape in explainer.input_shapes)
    facts = [
        ("model", explainer.name),
        ("method", explainer.method.name),
        ("parameters", ", ".join(f"{k}={v}" for k, v in explainer.settings.items())),
        ("input", inputs),
        ("classes", explainer.classes),
        ("weighted layers", sum(bool(layer.role) for layer in explainer.layers)),
        *(("note", note) for note in explainer.notes),
    ]
    headers = ("layer", "operator", "shape", "role", "input sign", "rule")
    layers = table(headers, map(layer_row, explainer.layers))
    return (
        f"<div>{table(('', ''), facts)}<details><summary>{len(explainer.layers)} layers</summary>"
        f"{layers}</details></div>"
    )


def layer_row(layer: LayerInfo) -> tuple[str, ...]:
    """What a table says of a layer."""
    shape = "\u00d7".join(map(str, layer.shape))
    roles = ", ".join(layer.roles) or "-"
    return (layer.label, layer.operator, shape, roles, layer.sign, layer.rule or "-")


def explainer_figure(explainer: Any) -> Any:
    """The layers in the order of computation: how large their results are, colored by rule."""
    from matplotlib.figure import Figure

    layers = [layer for layer in explainer.layers if layer.role] or list(explainer.layers)
    rules = list(dict.fromkeys((layer.rule or "none").partition("(")[0] for layer in layers))
    height = 1.2 + 0.2 * len(layers)
    figure = Figure(figsize=(7.0, height), layout="constrained")
    axes = figure.subplots()
    for number, rule in enumerate(rules):
        own = [i for i, one in enumerate(layers) if (one.rule or "none").partition("(")[0] == rule]
        sizes = [entries(layers[i].shape) for i in own]
        axes.barh(own, sizes, color=f"C{number % 10}", label=rule)
    labels = [escaped(f"{one.label} ({one.operator})") for one in layers]
    axes.set_yticks(range(len(layers)), labels, fontsize=7, parse_math=False)
    axes.set(xscale="log", xlabel="entries of the result")
    axes.set_ylim(len(layers) - 0.5, -0.5)
    title = escaped(f"{explainer.name}: {explainer.method.name}")
    axes.set_title(title, fontsize=9, parse_math=False)
    legend = figure.legend(title="rule", fontsize=7, loc="outside right upper")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def entries(shape: Sequence[int]) -> int:
    """How many entries a tensor of a shape has."""
    count = 1
    for length in shape:
        count *= length
    return count


def escaped(text: str) -> str:
    """A name on one line, not too long."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
