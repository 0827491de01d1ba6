"""Where things lie in a picture: nothing overlaps, no edge passes a box, every edge ends at its."""

import random
from itertools import combinations, pairwise

import pytest

from graphprop.drawing import Graph, graph_of, lay_out
from support.drawn import NETWORKS, chain, gated, layer, random_graph, residual


def apart(one, other) -> bool:
    return (
        one.x + one.width <= other.x
        or other.x + other.width <= one.x
        or one.y + one.height <= other.y
        or other.y + other.height <= one.y
    )


def passes(begin, end, box) -> bool:
    """Whether a segment goes through the inside of a box."""
    (ax, ay), (bx, by) = begin, end
    return (
        max(ax, bx) > box.x
        and min(ax, bx) < box.x + box.width
        and max(ay, by) > box.y
        and min(ay, by) < box.y + box.height
    )


def shared(one, other) -> bool:
    """Whether two segments lie on each other for some length."""
    for a, b in ((0, 1), (1, 0)):
        if one[0][a] == one[1][a] == other[0][a] == other[1][a]:
            first, second = (sorted((s[0][b], s[1][b])) for s in (one, other))
            if max(first[0], second[0]) < min(first[1], second[1]):
                return True
    return False


def check_geometry(graph: Graph, columns: int | None = None) -> None:
    page = lay_out(graph, columns)
    assert all(apart(*pair) for pair in combinations(page.boxes, 2))
    drawn = [one.label for box in page.boxes for one in box.unit.layers]
    assert sorted(drawn) == sorted(one.label for one in graph.layers)
    box_of = {box.unit: box for box in page.boxes}
    for line in page.lines:
        (sx, sy), (tx, ty) = line.points[0], line.points[-1]
        source, target = box_of[line.source], box_of[line.target]
        assert (sx, sy) == (source.x + source.width // 2, source.y + source.height)
        assert target.x < tx < target.x + target.width
        assert ty == target.y
        for begin, end in pairwise(line.points):
            assert (begin[0] == end[0]) != (begin[1] == end[1])
            assert not any(passes(begin, end, box) for box in page.boxes)
            assert all(0 <= x <= page.width and 0 <= y <= page.height for x, y in (begin, end))
        assert line.points[-2][1] < ty  # it enters from above
    for one, other in combinations(page.lines, 2):
        if one.source is not other.source and one.target is not other.target:
            pairs = ((a, b) for a in pairwise(one.points) for b in pairwise(other.points))
            assert not any(shared(a, b) for a, b in pairs)
    edges = {(line.source, line.target, line.carries) for line in page.lines}
    assert len(edges) == len(page.lines)
    inside = sum(len(box.unit.layers) - 1 for box in page.boxes if box.unit.layers)
    assert len(edges) + inside == sum(len(one.operands) for one in graph.layers)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("columns", [None, 1, 3])
def test_nothing_overlaps_and_every_edge_ends_at_its_boxes(name, columns):
    check_geometry(NETWORKS[name], columns)


def test_the_same_of_any_network():
    for seed in range(150):
        check_geometry(random_graph(seed), random.Random(seed).choice((None, 1, 2)))


def slots(graph):
    return {box.unit.layers[0].label: box.unit.slot for box in lay_out(graph).boxes
            if box.unit.layers}  # fmt: skip


def test_the_main_path_is_straight_and_shortcuts_lie_beside_it():
    graph = residual()
    page = lay_out(graph, 1)
    assert {box.x for box in page.boxes} == {page.boxes[0].x}
    skipping = [line for line in page.lines if line.skips]
    assert [line.target.layers[0].label for line in skipping] == ["0.add", "1.add", "2.add"]
    assert all(len(line.points) == 2 for line in page.lines if not line.skips)


def test_a_gate_lies_beside_the_signal_that_it_scales():
    assert slots(gated()) == {"conv": 0, "pool": 1, "fc": 1, "mul": 0, "out": 0}
    page = lay_out(gated())
    without = {line.target.layers[0].label for line in page.lines if not line.carries}
    assert without == {"pool", "fc", "mul"}


def test_an_activation_is_a_row_of_the_box_before_it():
    boxes = lay_out(residual(1)).boxes
    rows = [[one.label for one in box.unit.layers] for box in boxes]
    assert rows == [[], ["0.conv1", "0.relu"], ["0.conv2"], ["0.add"]]


def test_stages_are_framed_by_the_size_of_their_maps():
    frames = lay_out(residual(), 1).frames
    assert [(frame.module, frame.size) for frame in frames] == [
        ("0", "64 × 64"),
        ("1", "32 × 32"),
        ("2", "16 × 16"),
    ]


def test_lines_that_belong_together_meet_in_a_dot():
    assert len(lay_out(residual(), 1).dots) == 3  # where each shortcut leaves the main path
    assert not lay_out(chain(), 1).dots


def test_a_long_network_has_several_columns():
    assert len({box.x for box in lay_out(chain(60)).boxes}) > 2
    assert len({box.x for box in lay_out(chain(60), 1).boxes}) == 1
    assert len({box.x for box in lay_out(chain(60), 2).boxes}) == 2


def test_zeros_around_a_map_belong_to_the_stage_of_the_layer_that_reads_them():
    layers = [
        layer("a", 0, role="input", shape=(4, 8, 8)),
        {**layer("pad", "a", shape=(4, 9, 9)), "operator": "pad"},
        layer("b", "pad", role="conv_stack", shape=(4, 4, 4)),
    ]
    frames = lay_out(graph_of("padded", [(3, 8, 8)], layers, {})).frames
    assert [frame.size for frame in frames] == ["8 × 8", "4 × 4"]


def test_a_size_that_shrinks_and_grows_again_is_named():
    layers = [
        layer("down", 0, role="input", shape=(4, 8, 8)),
        layer("deep", "down", role="conv_stack", shape=(4, 2, 2)),
        layer("up", "deep", shape=(4, 8, 8)),
        layer("join", "up", "down", shape=(8, 8, 8)),
    ]
    frames = lay_out(graph_of("u-net", [(3, 8, 8)], layers, {})).frames
    assert [frame.size for frame in frames] == ["8 × 8 to 2 × 2"]
