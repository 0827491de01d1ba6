"""The picture: valid XML in which names are text, the same bytes for the same network."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import graphprop
from graphprop import api
from graphprop.artifact.manifest import read_manifest
from graphprop.cli import main
from graphprop.drawing import STYLE, draw, graph_of, graph_of_manifest
from graphprop.drawing.text import fitted, printable, width_of
from graphprop.errors import OutputError
from graphprop.frontend.load import load_source
from support.drawn import NETWORKS, layer

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = (
    "</title><script>alert(1)</script>",
    '"><image href=\'http://example.com/x\' onerror="alert(1)"/>',
    "]]>&amp;&#0;<!--",
    "{{ 7 * 7 }}{% raw %}",
    "new\nline\x00\x1b[31m\u202etrap\ud800\ufffe",
    "名前層" * 40,
    "x" * 5000,
    "",
)


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(SVG + tag))


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in elements(svg, "text")]


def tooltips(svg: str) -> list[str]:
    groups = [one for one in elements(svg, "g") if one.get("class") == "layer"]
    return [group.find(SVG + "title").text for group in groups]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_has_a_box_and_a_tooltip(name):
    graph = NETWORKS[name]
    labels = [tip.splitlines()[0].removeprefix("layer: ") for tip in tooltips(draw(graph))]
    assert sorted(labels) == sorted(one.label for one in graph.layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_drawn_lies_in_the_picture_and_edges_end_at_boxes(name):
    svg = draw(NETWORKS[name])
    root = ElementTree.fromstring(svg)
    width, height = int(root.get("width")), int(root.get("height"))
    assert root.get("viewBox") == f"0 0 {width} {height}"
    boxes = [
        [int(rect.get(key)) for key in ("x", "y", "width", "height")]
        for rect in elements(svg, "rect")
        if "box" in rect.get("class").split()
    ]
    assert all(x >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    upper = {(y, x, x + w) for x, y, w, _ in boxes}
    lower = {(y + h, x, x + w) for x, y, w, h in boxes}
    paths = [one.get("d") for one in elements(svg, "path") if "edge" in one.get("class")]
    for path in paths:
        if "h24" in path:  # of the legend
            continue
        x, y = map(int, re.match(r"M(\d+) (\d+)", path).groups())
        assert any(y == edge and left <= x <= right for edge, left, right in lower), path
        steps = re.findall(r"([HV])(\d+)", path)
        assert len(steps) == path.count("H") + path.count("V")
        for kind, value in steps:
            x, y = (int(value), y) if kind == "H" else (x, int(value))
        assert any(y == edge and left <= x <= right for edge, left, right in upper), path


def test_names_are_text_whatever_they_hold():
    layers, before = [], 0
    for number, name in enumerate(HOSTILE):
        layers.append(layer(name, before, role="conv_stack", kind=name, details=name, line=name))
        layers.append(layer(f"relu{number}{name}", name, rule=f"rule{name}", sign=name))
        before = f"relu{number}{name}"
    svg = draw(graph_of(HOSTILE[0], [(3, 8, 8)], layers, {HOSTILE[1]: f"merged into {HOSTILE[0]}"}))
    root = ElementTree.fromstring(svg.encode("utf-8"))
    known = {"svg", "title", "desc", "style", "rect", "g", "text", "path"}
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == known
    attributes = {name for one in root.iter() for name in one.attrib}
    assert attributes <= {
        "aria-label", "class", "cx", "cy", "d", "height", "r", "role", "rx", "transform",
        "viewBox", "width", "x", "y",
    }  # fmt: skip
    classes = {word for one in root.iter() for word in one.get("class", "").split()}
    assert all(re.fullmatch(r"[a-z_]+", word) for word in classes)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace(
        "http://example.com/x", ""
    )
    tips = "".join(tooltips(svg))
    assert "layer: </title><script>alert(1)</script>" in tips
    assert r"new\nline\x00\x1b[31m\u202etrap\ud800\ufffe" in tips
    assert "<style>" + STYLE.replace(">", "&gt;") + "</style>" in svg


def test_the_bytes_are_the_same_in_every_process():
    program = (
        "import hashlib; from support.drawn import NETWORKS; "
        "from graphprop.drawing import draw; "
        "print(hashlib.sha256(''.join(map(draw, NETWORKS.values())).encode()).hexdigest())"
    )
    here = hashlib.sha256("".join(map(draw, NETWORKS.values())).encode()).hexdigest()
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == here


def test_a_page_may_hold_the_style_itself():
    assert STYLE.splitlines()[0] in draw(NETWORKS["chain"])
    plain = draw(NETWORKS["chain"], style=False)
    assert not elements(plain, "style")
    assert "style=" not in plain


def test_roles_stand_there_as_words_too():
    svg = draw(NETWORKS["gated"])
    shown = texts(svg)
    for words in ("input: pass", "gate: no relevance", "logits: pass"):
        assert words in shown
    assert {"input", "gate", "logits", "no weights", "relevance flows back"} <= set(shown)
    assert "past other layers" not in shown  # nothing is
    desc = ElementTree.fromstring(svg).find(SVG + "desc").text
    assert desc.startswith("6 layers, of which 3 have weights; input: 1; gate: 1; logits: 1")
    assert ElementTree.fromstring(svg).get("role") == "img"


def test_a_merged_batch_norm_stands_in_its_layer():
    svg = draw(NETWORKS["residual"])
    assert "+ merged bn" in texts(svg)
    assert any("batch norms merged into it: bn" in tip for tip in tooltips(svg))


def test_what_can_not_be_a_network_is_refused():
    with pytest.raises(OutputError, match="the layer 'b' reads 'c', which is no layer before it"):
        graph_of("x", [(3,)], [layer("b", "c"), layer("c", 0)], {})
    with pytest.raises(OutputError, match="the layer 'b' reads 1, which is no layer"):
        graph_of("x", [(3,)], [layer("b", 1)], {})
    with pytest.raises(OutputError, match="two layers are called 'b'"):
        graph_of("x", [(3,)], [layer("b", 0), layer("b", 0)], {})


@pytest.mark.parametrize("text", [*HOSTILE, "Wide WWW", "iiii", "layer4.2.downsample.0"])
@pytest.mark.parametrize("keep_end", [False, True])
def test_text_is_cut_to_its_width(text, keep_end):
    cut = fitted(text, 80, 11, keep_end=keep_end)
    assert width_of(cut, 11) <= 80 + 11
    whole = printable(text)
    kept = cut.strip("…")
    assert whole.endswith(kept) if keep_end else whole.startswith(kept)
    assert cut == whole or "…" in cut


class Small(nn.Module):
    """Every kind of edge and box in a few layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.side = nn.Conv2d(8, 8, 1)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.deep(x)) + self.side(x)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


def test_a_manifest_draws_the_same_as_the_network(tmp_path):
    explainer = graphprop.compile(Small().eval(), torch.zeros(2, 3, 16, 16), "lrp_z", name="small")
    explainer.save(tmp_path / "out", onnx=False, check=False)
    manifest = read_manifest(tmp_path / "out")
    compiled = explainer.compiled
    graph = graph_of(
        "small, lrp_z",
        compiled.input_shapes,
        [one.as_dict() for one in compiled.layers],
        compiled.network.decisions,
    )
    assert graph_of_manifest(manifest) == graph
    of = {one.label: one for one in graph.layers}
    assert of["stem"].folded == ("norm",)
    assert of["stem"].details == "3x3, stride 2"
    assert of["deep"].details == "3x3, 2 groups"
    assert of["stem"].operands == (0,)
    assert of["stem"].places == (8, 8)
    assert of["head"].places == ()
    assert of["side"].roles == ("conv_stack", "shortcut")
    assert of["squeeze"].gate
    multiply = next(one for one in graph.layers if one.operator == "multiply")
    assert [multiply.carries(one) for one in multiply.operands] == [True, False]
    # a manifest of before has no operands: the ways of relevance are drawn
    for entry in manifest["layers"]:
        del entry["operands"], entry["places"], entry["details"]
    assert "gate: no relevance" in texts(draw(graph_of_manifest(manifest)))


def test_a_network_is_drawn_as_inspect_found_it():
    loaded = load_source(str(ROOT / "models/digits.py"))
    found = api.inspect(loaded.model, loaded.example)
    layers = [one.as_dict() for one in found.layers]
    svg = draw(graph_of("digits", found.input_shapes, layers, found.batch_norms))
    assert len(tooltips(svg)) == len(layers)
    shown = texts(svg)
    for words in ("input: flat", "shortcut: z_plus", "logits: epsilon", "+ merged bn1", "4 × 4"):
        assert words in shown


def test_the_picture_in_the_documentation_is_what_is_drawn(tmp_path):
    """Otherwise: ``graphprop inspect models/digits.py --svg docs/network.svg``."""
    done = CliRunner().invoke(
        main, ["inspect", str(ROOT / "models/digits.py"), "--svg", str(tmp_path / "network.svg")]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "network.svg").read_bytes() == (ROOT / "docs/network.svg").read_bytes()
