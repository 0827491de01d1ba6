"""The pages: what they show, and that a browser runs nothing but their own script."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from torch import nn

import graphprop
from graphprop.drawing import graph_of
from graphprop.drawing.compare import ADDED, CHANGED, REMOVED, REPLACED, SAME, rows_of
from graphprop.drawing.pages import network_page
from graphprop.errors import VerificationError
from graphprop.passes.pipeline import Step, registered
from support.chromium import opened
from support.drawn import NETWORKS

HOSTILE = "</script><img src=x onerror=alert(1)>{{ 7*7 }}\u202e\x00"


class Hostile(nn.Module):
    """Names that would do something if they were not text."""

    def __init__(self):
        super().__init__()
        inner = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.add_module(HOSTILE.replace(".", ""), inner)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.get_submodule(HOSTILE.replace(".", ""))(x).flatten(1))


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """The folder of a compile of a network with hostile names."""
    folder = tmp_path_factory.mktemp("dump")
    graphprop.compile(Hostile().eval(), torch.zeros(2, 1, 6, 6), name=HOSTILE, dump_ir=folder)
    return folder


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_policy_allows_the_page_s_own_style_and_script_alone(dump):
    for page in ((dump / "index.html").read_text(), network_page(NETWORKS["gated"])):
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        assert policy.startswith("default-src 'none'; ")
        for tag in ("style", "script"):
            for content in re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
                assert f"{tag}-src 'sha256-{digest}'" in policy
        tags = Tags(page).found
        assert sum(tag == "style" for tag, _ in tags) == 1
        assert sum(tag == "script" for tag, _ in tags) == ("pass-1" in page)
        names = {name for _, attributes in tags for name in attributes}
        assert not {name for name in names if name.startswith("on") or name in ("src", "style")}
        links = [attributes["href"] for _, attributes in tags if "href" in attributes]
        assert all(re.fullmatch(r"#[\w-]+|\d\d_\w+\.txt", link) for link in links)
        assert "img" not in {tag for tag, _ in tags}


def test_the_page_lists_every_layer_and_what_is_known_of_it():
    page = network_page(NETWORKS["residual"])
    for label in ("0.conv1", "2.add"):
        assert f'<th scope="row">{label}</th>' in page
    assert ">batch norms merged into it</th>" in page
    assert "<td>bn</td>" in page
    assert ">source</th>" not in page  # it is known of none


def test_the_steps_show_each_pass_with_its_rewrites(dump):
    page = (dump / "index.html").read_text()
    names = [path.stem.partition("_")[2] for path in sorted(dump.glob("*.txt"))]
    assert names[0] == "canonicalize"
    assert names[-1] == "legalize_onnx"
    for number, name in enumerate(names, start=1):
        assert f'<h2 id="title-{number}">{name}</h2>' in page
    assert "1 batch norm<" in page
    assert re.search(r"<summary>equal subexpressions: \d+</summary>", page)
    assert "<svg" in page
    assert "input: flat" in page


def test_a_pass_that_was_added_has_its_step_and_one_that_fails_keeps_those_before(tmp_path):
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.zeros(2, 1, 2, 2)
    with registered(Step("mine", lambda network: network), after="join_sums"):
        graphprop.compile(model, x, "lrp_z", dump_ir=tmp_path / "one")
    assert '<h2 id="title-3">mine</h2>' in (tmp_path / "one" / "index.html").read_text()

    def fail(network):
        raise VerificationError("no")

    with (
        registered(Step("mine", fail), after="tag_roles"),
        pytest.raises(VerificationError, match="mine"),
    ):
        graphprop.compile(model, x, "lrp_z", dump_ir=tmp_path / "two")
    page = (tmp_path / "two" / "index.html").read_text()
    assert ">tag_roles</h2>" in page
    assert ">mine</h2>" not in page
    assert "<svg" not in page


# The comparison of two printed graphs


def kinds(old: str, new: str) -> list[tuple[str, str, str]]:
    return [
        (row.kind, "".join(t for t, _ in row.old), "".join(t for t, _ in row.new))
        for row in rows_of(f"# level\n{old}", f"# level\n{new}")
    ]


def test_lines_of_one_node_stand_beside_each_other():
    assert kinds("a = f(x)\nb = g(a)\nc = h(b)", "a = f(x)\nb = g(a, w)\nd = k(b)\ne = l(d)") == [
        (SAME, "", "a = f(x)"),
        (CHANGED, "b = g(a)", "b = g(a, w)"),
        (REPLACED, "c = h(b)", "d = k(b)"),
        (ADDED, "", "e = l(d)"),
    ]
    assert kinds("a = f(x)\nb = g(a)", "b = g(x)") == [
        (REMOVED, "a = f(x)", ""),
        (CHANGED, "b = g(a)", "b = g(x)"),
    ]


def test_what_differs_in_a_line_is_marked():
    (row,) = rows_of("#\nb = conv(a, w)", "#\nb = conv(c, w)")
    assert [text for text, differs in row.old if differs] == ["a"]
    assert [text for text, differs in row.new if differs] == ["c"]


def test_both_graphs_are_in_the_comparison_whole(dump):
    texts = [path.read_text() for path in sorted(dump.glob("*.txt"))]
    printed = [text[text.index("# canonical" if "# canonical" in text else "# ") :]
               for text in texts]  # fmt: skip
    printed = [
        re.sub(r"\A(# (pass|batch norm|fired|not fired).*\n)+", "", text) for text in printed
    ]
    for old, new in pairwise(printed):
        before, after = [], []
        for row in rows_of(old, new):
            same = list(row.folded) or ([row.new[0][0]] if row.kind == SAME else [])
            before += same or ["".join(t for t, _ in row.old)] * bool(row.old)
            after += same or ["".join(t for t, _ in row.new)] * bool(row.new)
        assert before == old.splitlines()[1:]
        assert after == new.splitlines()[1:]


# In a browser


@pytest.mark.slow
def test_the_steps_are_stepped_through_by_keyboard(dump):
    with opened(dump / "index.html") as page:
        sections = page.locator("main > section")
        count = sections.count()
        assert count == len(list(dump.glob("*.txt"))) + 1

        def visible():
            return [i for i in range(count) if sections.nth(i).is_visible()]

        assert visible() == [0]
        assert page.locator("#network svg").is_visible()
        for number in range(1, count):
            page.keyboard.press("ArrowRight")
            page.get_by_text(f"step {number + 1} of {count}", exact=True).wait_for()
            assert visible() == [number]
            assert page.locator("[aria-current]").count() == 1
        assert page.locator("#next").is_disabled()
        page.keyboard.press("ArrowLeft")
        page.get_by_text(f"step {count - 1} of {count}", exact=True).wait_for()
        page.get_by_role("link", name="fold_batchnorm").click()
        page.get_by_role("heading", name="fold_batchnorm").wait_for()
        folded = sections.nth(visible()[0]).locator(".compare details")
        page.keyboard.press("u")
        assert all(folded.nth(i).evaluate("one => one.open") for i in range(folded.count()))
        page.keyboard.press("u")
        assert not any(folded.nth(i).evaluate("one => one.open") for i in range(folded.count()))
        page.get_by_role("button", name="Back").focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="join_sums").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_light_and_dark(tmp_path, scheme):
    file = tmp_path / "network.html"
    layers = [
        {"label": HOSTILE, "operator": "conv", "shape": [4], "operands": [0], "signal": [None],
         "rule": "flat", "role": "input", "roles": ["input"]},
    ]  # fmt: skip
    file.write_text(network_page(graph_of(HOSTILE, [(3,)], layers, {})), encoding="utf-8")
    with opened(file, scheme) as page:
        colors = page.evaluate(
            """() => ["rect.paper", "rect.box", "text.name", "text.dim", "h1", "body"].map(
                (one) => [getComputedStyle(document.querySelector(one)).fill,
                          getComputedStyle(document.querySelector(one)).color,
                          getComputedStyle(document.querySelector(one)).backgroundColor])"""
        )
        luminance = [[brightness(color) for color in row] for row in colors]
        paper, box, name, dim = (row[0] for row in luminance[:4])
        heading, ground = luminance[4][1], luminance[5][2]
        for text, behind in ((name, box), (dim, box), (name, paper), (heading, ground)):
            assert contrast(text, behind) >= 4.5  # WCAG 2, level AA
        assert (ground < 0.5) == (scheme == "dark")
        assert page.locator("svg").first.get_attribute("role") == "img"
        wide = page.locator("svg").first.bounding_box()["width"]
        page.get_by_label("fit the picture to the window").check()
        assert page.locator("svg").first.bounding_box()["width"] != wide


def brightness(color: str) -> float:
    """The relative luminance of a computed color."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: float, other: float) -> float:
    """The contrast of two luminances."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_text_stays_in_its_box(tmp_path):
    file = tmp_path / "network.html"
    file.write_text(network_page(NETWORKS["residual"]), encoding="utf-8")
    with opened(file) as page:
        outside = page.evaluate(
            """() => [...document.querySelectorAll("g.layer")].flatMap((group) => {
                const box = group.querySelector("rect").getBoundingClientRect();
                return [...group.querySelectorAll("text")].filter((text) => {
                  const own = text.getBoundingClientRect();
                  return own.left < box.left || own.right > box.right + 1;
                }).map((text) => text.textContent);
            })"""
        )
        assert outside == []
