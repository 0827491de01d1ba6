"""The picture: a page as SVG text, in dark and light, with a legend and a tooltip at each layer.

The text is written by `xml.etree`, so that names are text whatever they hold. There is no script,
no link, no font and no ``style`` attribute in it; the one style sheet is `STYLE`, for a page that
allows styles by their hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from graphprop.drawing.columns import MARGIN, Box, Frame, Line, Page, lay_out
from graphprop.drawing.graph import Graph, Layer
from graphprop.drawing.text import fitted, printable, times, width_of
from graphprop.drawing.units import BOX_WIDTH, FOLDED_HEIGHT, HEAD_HEIGHT, ROW_HEIGHT, Unit

ROLES = {
    "gate": ("gate", "weighted layers that only scale a signal: no relevance arrives"),
    "input": ("input", "the first weighted layers: rules for pixels"),
    "shortcut": ("shortcut", "weighted layers on the shallower branch of a residual addition"),
    "logits": ("logits", "the last weighted layers"),
    "dense_head": ("dense head", "weighted layers behind the last map"),
    "conv_stack": ("conv stack", "convolutions between the input and the head"),
}
"""Role -> what it is called in the picture, and what it means. Of a layer's roles, the first gives
its color: `gate`, `shortcut` and `logits` say more than where the layer lies."""

LEGEND = ("input", "conv_stack", "shortcut", "gate", "dense_head", "logits")

SIGNS = {
    "non-negative": "x ≥ 0",
    "non-positive": "x ≤ 0",
    "mixed": "x of any sign",
    "zero": "x = 0",
}

# The colors of Okabe and Ito, which people tell apart however they see colors.
STYLE = """\
.gpn{--gpn-ink:#1f2328;--gpn-dim:#57606a;--gpn-paper:#fff;--gpn-box:#f6f8fa;--gpn-line:#6e7781;\
--gpn-frame:#d0d7de;--gpn-input:#e69f00;--gpn-conv_stack:#56b4e9;--gpn-shortcut:#009e73;\
--gpn-gate:#f0e442;--gpn-dense_head:#cc79a7;--gpn-logits:#d55e00;--gpn-none:#afb8c1;\
font-family:system-ui,"Segoe UI","DejaVu Sans",sans-serif;font-size:11px}
@media(prefers-color-scheme:dark){.gpn{--gpn-ink:#e6edf3;--gpn-dim:#9da7b3;--gpn-paper:#0d1117;\
--gpn-box:#1b222c;--gpn-line:#8b949e;--gpn-frame:#30363d;--gpn-none:#57606a}}
.gpn text{fill:var(--gpn-ink)}
.gpn .paper{fill:var(--gpn-paper)}
.gpn .title{font-size:16px;font-weight:600}
.gpn .name{font-size:12px;font-weight:600}
.gpn .dim{fill:var(--gpn-dim)}
.gpn .end{text-anchor:end}
.gpn .frame{fill:none;stroke:var(--gpn-frame);stroke-width:1.5}
.gpn .size{font-size:13px;font-weight:600}
.gpn .box{fill:var(--gpn-box);stroke:var(--gpn-line)}
.gpn .row{fill:none;stroke:var(--gpn-frame)}
.gpn .unused{stroke-dasharray:4 3}
.gpn .stripe{stroke:none;fill:var(--gpn-none)}
.gpn .input{fill:var(--gpn-input)}
.gpn .conv_stack{fill:var(--gpn-conv_stack)}
.gpn .shortcut{fill:var(--gpn-shortcut)}
.gpn .gate{fill:var(--gpn-gate)}
.gpn .dense_head{fill:var(--gpn-dense_head)}
.gpn .logits{fill:var(--gpn-logits)}
.gpn .edge{fill:none;stroke:var(--gpn-line);stroke-width:1.5}
.gpn .skips{stroke:var(--gpn-shortcut)}
.gpn .cut{stroke-dasharray:5 4}
.gpn .dot,.gpn .tip{fill:var(--gpn-line);stroke:none}
"""

HEADER, LEGEND_ROW, SMALLEST_WIDTH = 34, 22, 560


def draw(graph: Graph, *, columns: int | None = None, style: bool = True) -> str:
    """Draw a network.

    Parameters
    ----------
    graph
        The network, from `graph_of` or `graph_of_manifest`.
    columns
        How many columns the picture has at most; by default as many as make it readable.
    style
        Whether the picture holds `STYLE`. A page that shows it may hold that itself; without it,
        the picture can lie in a page whose policy forbids styles it doesn't know.

    Returns
    -------
    str
        An ``svg`` element, the same for the same network. Its width and height are in pixels.

    Raises
    ------
    OutputError
        If the network is none: see `graph_of`.
    """
    page = lay_out(graph, columns)
    width = max(page.width, SMALLEST_WIDTH)
    legend, header = legend_of(graph, page, width)
    height = page.height + header
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "gpn",
            "width": str(width),
            "height": str(height),
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-label": printable(f"{graph.title}: the network's layers"),
        },
    )
    add(root, "title", f"{graph.title}: the network's layers")
    add(root, "desc", f"{described(graph)}. From the top down, in columns from the left.")
    if style:
        add(root, "style", STYLE, plain=True)
    add(root, "rect", None, x=0, y=0, width=width, height=height, class_="paper")
    root.append(legend)
    body = add(root, "g", None, transform=f"translate(0 {header})")
    for frame in page.frames:
        draw_frame(body, frame)
    for line in sorted(page.lines, key=lambda line: not line.skips):  # what is shared lies above
        draw_line(body, line)
    for x, y in page.dots:
        add(body, "circle", None, cx=x, cy=y, r=3, class_="dot")
    for box in page.boxes:
        draw_box(body, box, graph)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def add(
    parent: ElementTree.Element,
    tag: str,
    text: str | None,
    *,
    plain: bool = False,
    class_: str | None = None,
    **attributes: str | int,
) -> ElementTree.Element:
    """Add an element; text and attributes are printable, whatever names they hold."""
    found = {name: printable(str(value)) for name, value in attributes.items()}
    if class_:
        found["class"] = class_
    element = ElementTree.SubElement(parent, tag, found)
    if text is not None:
        element.text = text if plain else "\n".join(map(printable, text.split("\n")))
    return element


def described(graph: Graph) -> str:
    """The picture in words, for who can't see it."""
    weighted = [layer for layer in graph.layers if layer.role]
    parts = [f"{len(graph.layers)} layers, of which {len(weighted)} have weights"]
    for role in LEGEND:
        count = sum(role == role_of(layer) for layer in weighted)
        if count:
            parts.append(f"{ROLES[role][0]}: {count}")
    folded = sum(len(layer.folded) for layer in graph.layers)
    if folded:
        parts.append(f"{folded} batch norms merged")
    return "; ".join(parts)


def legend_of(graph: Graph, page: Page, width: int) -> tuple[ElementTree.Element, int]:
    """The title and what colors and lines mean; and their height."""
    group = ElementTree.Element("g", {"class": "legend"})
    add(group, "text", fitted(graph.title, width - 2 * MARGIN, 17), x=MARGIN, y=28, class_="title")
    y = HEADER
    for note in (described(graph), *graph.notes):
        y += 15
        add(group, "text", fitted(note, width - 2 * MARGIN, 11), x=MARGIN, y=y, class_="dim")
    x, y = MARGIN, y + LEGEND_ROW
    used = {role_of(layer) for layer in graph.layers}
    items = [(role, ROLES[role][0]) for role in LEGEND if role in used]
    lines = [("edge", "relevance flows back")]
    if any(line.skips for line in page.lines):
        lines.append(("edge skips", "past other layers"))
    if not all(line.carries for line in page.lines):
        lines.append(("edge cut", "no relevance (gate)"))
    for kind, name in [*items, ("", "no weights"), *lines]:
        need = 30 + round(width_of(name, 11)) + 14
        if x + need > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + LEGEND_ROW
        if kind.startswith("edge"):
            add(group, "path", None, d=f"M{x} {y - 4}h24", class_=kind)
        else:
            item = add(group, "rect", None, x=x + 8, y=y - 11, width=14, height=14,
                       class_=f"stripe {kind}".strip())  # fmt: skip
            if kind:
                add(item, "title", ROLES[kind][1])
        add(group, "text", name, x=x + 30, y=y)
        x += need
    return group, y + 4


def draw_frame(parent: ElementTree.Element, frame: Frame) -> None:
    """A frame, with the module's path left of the main path and the size right of it."""
    add(parent, "rect", None, x=frame.x, y=frame.y, width=frame.width, height=frame.height, rx=8,
        class_="frame")  # fmt: skip
    middle, room = frame.middle, BOX_WIDTH // 2 - 12
    right = frame.x + frame.width - middle - 18
    if frame.module:
        add(parent, "text", fitted(frame.module, room, 11, keep_end=True), x=middle - 12,
            y=frame.y + 17, class_="dim end")  # fmt: skip
    add(parent, "text", fitted(frame.size, right, 13), x=middle + 12, y=frame.y + 17, class_="size")


def name_of(unit: Unit, *, last: bool = False) -> str:
    """What an edge's end is called."""
    if not unit.layers:
        return f"input {unit.image}"
    return unit.layers[-1 if last else 0].label


def draw_line(parent: ElementTree.Element, line: Line) -> None:
    """An edge, its arrow, and a tooltip."""
    kinds = ["edge", *(["skips"] if line.skips else []), *([] if line.carries else ["cut"])]
    (x, y), *rest = line.points
    path = f"M{x} {y}" + "".join(
        f"H{px}" if py == qy else f"V{py}"
        for (_, qy), (px, py) in zip(line.points, rest, strict=False)
    )
    group = add(parent, "g", None)
    add(group, "title", f"{name_of(line.source, last=True)} → {name_of(line.target)}"
        + ("" if line.carries else " (no relevance)"))  # fmt: skip
    add(group, "path", None, d=path, class_=" ".join(kinds))
    x, y = line.points[-1]
    add(group, "path", None, d=f"M{x - 4} {y - 7}h8l-4 7z", class_="tip")


def draw_box(parent: ElementTree.Element, box: Box, graph: Graph) -> None:
    """A box, with a row for each of its layers."""
    x, y = box.x, box.y
    if not box.unit.layers:
        index = box.unit.image or 0
        group = add(parent, "g", None)
        shape = times(graph.inputs[index])
        number = f" {index + 1}" if len(graph.inputs) > 1 else ""
        add(group, "title", f"input{number}\nshape: {shape}")
        add(group, "rect", None, x=x, y=y, width=BOX_WIDTH, height=box.height, rx=18, class_="box")
        add(group, "text", f"input{number}", x=x + 18, y=y + 22, class_="name")
        add(group, "text", fitted(shape, 120, 11), x=x + BOX_WIDTH - 18, y=y + 22, class_="dim end")
        return
    first, *rest = box.unit.layers
    height = HEAD_HEIGHT + FOLDED_HEIGHT * len(first.folded)
    draw_layer(parent, first, x, y, height)
    y += height
    for layer in rest:
        draw_row(parent, layer, x, y)
        y += ROW_HEIGHT


def role_of(layer: Layer) -> str:
    """The role that a layer is colored by."""
    roles = layer.roles or (layer.role,)
    return next((role for role in ROLES if role in roles), "")


def layer_group(parent: ElementTree.Element, layer: Layer) -> ElementTree.Element:
    """The group of a layer, with its tooltip."""
    group = add(parent, "g", None, class_="layer")
    add(group, "title", "\n".join(f"{name}: {value}" for name, value in facts_of(layer) if value))
    return group


def facts_of(layer: Layer) -> Iterable[tuple[str, str]]:
    """All that is known about a layer, by what it is called."""
    yield "layer", printable(layer.label)
    yield "operator", " ".join(filter(None, (layer.operator, layer.details)))
    yield "module", layer.kind
    yield "shape", times(layer.shape)
    yield "role", ", ".join(layer.roles) or "none (no weights)"
    yield "input", layer.sign
    yield "rule", layer.rule or "none: no relevance arrives"
    yield "batch norms merged into it", ", ".join(map(printable, layer.folded))
    yield "source", layer.line or ""


def draw_layer(parent: ElementTree.Element, layer: Layer, x: int, y: int, height: int) -> None:
    """The first layer of a box: its name; operator and shape; role, rule and sign."""
    group = layer_group(parent, layer)
    unused = " unused" if layer.gate else ""
    right, inner = x + BOX_WIDTH - 8, BOX_WIDTH - 22
    add(group, "rect", None, x=x, y=y, width=BOX_WIDTH, height=height, class_=f"box{unused}")
    role = role_of(layer)
    add(group, "rect", None, x=x, y=y, width=8, height=height, class_=f"stripe {role}".strip())
    add(group, "text", fitted(layer.label, inner, 13.6, keep_end=True), x=x + 14, y=y + 16,
        class_="name")  # fmt: skip
    shape = fitted(times(layer.shape), inner * 0.6, 11)
    what = " ".join(filter(None, (layer.operator, short(layer.details))))
    add(group, "text", fitted(what, inner - width_of(shape, 11) - 6, 11), x=x + 14, y=y + 31)
    add(group, "text", shape, x=right, y=y + 31, class_="end")
    sign = SIGNS.get(layer.sign, layer.sign) if layer.rule else ""
    rule = (layer.rule or "no relevance").partition("(")[0]
    named = f"{ROLES[role][0]}: {rule}" if role else rule
    add(group, "text", fitted(named, inner - width_of(sign, 11) - 6, 11), x=x + 14, y=y + 46,
        class_="dim")  # fmt: skip
    if sign:
        add(group, "text", sign, x=right, y=y + 46, class_="dim end")
    for number, name in enumerate(layer.folded):
        end = fitted(name, inner - width_of("+ merged ", 11), 11, keep_end=True)
        add(group, "text", f"+ merged {end}", x=x + 14, y=y + 46 + FOLDED_HEIGHT * (number + 1),
            class_="dim")  # fmt: skip


def short(details: str) -> str:
    """Kernel and stride in as little room as a box has."""
    return details.replace("stride ", "/").replace(" groups", "g").replace(",", "")


def draw_row(parent: ElementTree.Element, layer: Layer, x: int, y: int) -> None:
    """A layer that follows in the same box: its operator, its name's end and its rule."""
    group = layer_group(parent, layer)
    inner = BOX_WIDTH - 22
    add(group, "rect", None, x=x, y=y, width=BOX_WIDTH, height=ROW_HEIGHT,
        class_="box unused" if layer.gate else "box")  # fmt: skip
    add(group, "text", fitted(layer.operator, inner / 2, 11), x=x + 14, y=y + 12)
    rest = inner - width_of(fitted(layer.operator, inner / 2, 11), 11) - 6
    name = layer.label.rpartition(".")[2]
    if name != layer.operator:
        add(group, "text", fitted(name, rest, 11, keep_end=True), x=x + BOX_WIDTH - 8, y=y + 12,
            class_="dim end")  # fmt: skip
