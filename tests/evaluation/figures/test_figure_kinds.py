"""What each figure draws is what explainers and networks return."""

import numpy as np
import pytest
import torch
from torch import nn

import graphprop
from graphprop import builtin
from graphprop.errors import InputError, MethodError
from graphprop.evaluation import Case, baselines
from graphprop.evaluation.figures import KINDS
from graphprop.evaluation.figures.recorded import (
    flows_at_input,
    layers_with_places,
    map_of,
    named,
    spread,
)
from graphprop.evaluation.figures.sanity import cascade, other_class
from graphprop.evaluation.figures.signs import correlations
from graphprop.evaluation.figures.subjects import central, scene_of, shower
from graphprop.evaluation.figures.topk import keep, score_of
from graphprop.evaluation.sample import explain_batch
from graphprop.evaluation.sensitivity import layers_of, permuted, similarity_of
from graphprop.ir.facts import facts_of
from graphprop.pictures.heatmap import heatmap, limit_of
from support.evaluation import Fixed, channel_network, scenes


class Net(nn.Module):
    """Two convolutions with batch norms, a pool, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def explainers():
    torch.manual_seed(0)
    net = Net().eval()
    for norm in (net.bn1, net.bn2):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    captured = graphprop.capture(net, torch.zeros(1, 3, 16, 16))
    return {
        name: graphprop.compile(captured, method=name, record=["*"])
        for name in ("epsilon_plus_flat", "rap-bn", "gradcam")
    }


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(1)
    mask = np.zeros((16, 16), dtype=bool)
    mask[3:9, 4:10] = True
    pictures = torch.rand(2, 3, 16, 16)
    return [
        Case(pictures[0], 1, mask, frozenset({1, 2}), "one.png"),
        Case(pictures[0], 2, ~mask, frozenset({1, 2}), "one.png"),
        Case(pictures[1], -1, None, frozenset(), "two.png"),
    ]


def images(figure):
    """The pictures that are drawn, from the upper left."""
    return [np.asarray(place.images[0].get_array()) for place in figure.axes]


def written(figure):
    return " ".join(text.get_text() for text in figure.texts)


def colors(values):
    return np.asarray(heatmap(values, limit_of(values)))


def maps(explainer, case, target=None):
    target = torch.tensor([case.target if target is None else target])
    return explain_batch(explainer, case.image[None], target)[1][0]


def test_the_command_knows_the_kinds():
    assert sorted(builtin.FIGURES) == sorted(KINDS)


# Panel


def test_a_panel_has_the_maps_of_the_explainers(explainers, data):
    names = ["zero", "bird", "cat", "dog"]
    drawn = graphprop.figure("panel", explainers, data[:2], class_names=names)
    found = images(drawn)
    assert len(found) == 2 * (1 + len(explainers))
    expected = [
        part
        for case in data[:2]
        for part in (None, *(colors(maps(one, case)) for one in explainers.values()))
    ]
    for got, wanted in zip(found, expected, strict=True):
        assert wanted is None or np.array_equal(got, wanted)
    text = written(drawn)
    for word in ("one.png", "bird (1)", "cat (2)", "epsilon_plus_", "rap-bn", "gradcam"):
        assert word in text


def test_methods_that_do_not_fit_beside_each_other_follow_below(explainers, data):
    wide = graphprop.figure("panel", explainers, data[:1])
    high = graphprop.figure("panel", explainers, data[:1], columns=2)
    pictures = [images(figure) for figure in (wide, high)]
    assert [len(one) for one in pictures] == [4, 5]  # the picture stands before each block
    assert all(any(np.array_equal(a, b) for b in pictures[1]) for a in pictures[0])


def test_the_predicted_class_is_drawn_where_none_is_given(explainers, data):
    explainer = explainers["epsilon_plus_flat"]
    predicted = int(explainer(data[2].image[None])[0].argmax())
    drawn = graphprop.figure("panel", {"e": explainer}, data[2:])
    assert f"class {predicted}" in written(drawn)
    assert np.array_equal(images(drawn)[1], colors(maps(explainer, data[2], predicted)))


def test_targets_replace_the_classes_and_only_its_own_has_an_outline(explainers, data):
    scene = scene_of(explainers, data, targets=[2, 3])
    assert [(s.name, s.case.target) for s in scene.subjects] == [
        ("one.png", 2),
        ("one.png", 3),
        ("two.png", 2),
        ("two.png", 3),
    ]
    assert [s.case.mask is not None for s in scene.subjects] == [True, False, False, False]
    assert np.array_equal(scene.subjects[0].case.mask, data[1].mask)


def test_every_class_of_a_chosen_picture_is_taken(explainers, data):
    for seed in range(6):
        scene = scene_of(explainers, data, samples=1, seed=seed, every_class=True)
        found = {s.index for s in scene.subjects}
        assert found in ({0, 1}, {2})
    with pytest.raises(InputError, match="needs a sequence of cases"):
        scene_of(explainers, iter(data), every_class=True)


def test_a_picture_is_drawn_as_its_preprocessing_says():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    given = torch.from_numpy(pixels).permute(2, 0, 1).double() / 255
    x = (given - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert np.array_equal(shower(x, {"mean": mean, "std": std})(x), pixels)
    spread_out = shower(x, None)(x)
    assert spread_out.min() == 0
    assert spread_out.max() == 255
    gray = shower(x[:1], None)(x[:1])
    assert (gray == gray[..., :1]).all()


def test_of_a_volume_the_central_slice_is_drawn():
    volume = torch.rand(1, 9, 5, 6)
    shown = shower(volume, {"mean": [0.0], "std": [1.0]})(volume)
    expected = (volume[0, 4].double().numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(shown[..., 0], expected)
    assert np.array_equal(central(volume[0].numpy()), volume[0, 4].numpy())


class Volumes(nn.Module):
    """A convolution in three dimensions, a pool, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv3d(1, 3, 3), nn.MaxPool3d(2), nn.Linear(81, 2)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.conv(x))).flatten(1))


def test_each_figure_of_a_volume_shows_its_central_slice():
    torch.manual_seed(0)
    made = graphprop.compile(Volumes().eval(), torch.zeros(1, 1, 8, 8, 8), record=["*"])
    volume = torch.rand(1, 8, 8, 8)
    mask = (volume > 0.5)[0].numpy()
    summed = maps(made, Case(volume, 0))
    assert summed.shape == (8, 8, 8)
    for kind in ("panel", "layers", "signs", "sanity"):
        drawn = graphprop.figure(kind, {"e": made}, [(volume, 0, mask)])
        assert "central slice" in written(drawn)
        wanted = np.maximum(summed[4], 0) if kind == "signs" else summed[4]
        assert any(np.array_equal(one, colors(wanted)) for one in images(drawn)), kind
    drawn = graphprop.figure("topk", {"e": made}, [(volume, 0, mask)], fill="mean", top=50)
    assert images(drawn)[1].shape == (8, 8, 3)
    with pytest.raises(InputError, match="the fill 'blur' is defined for pictures"):
        graphprop.figure("topk", {"e": made}, [(volume, 0, mask)])


def test_signals_are_refused(explainers):
    with pytest.raises(InputError, match="case 0 is a signal"):
        scene_of(explainers, [(torch.rand(3, 16), 0, None)])


# Layers and flows


def test_the_map_of_a_layer_is_its_recorded_relevance(explainers, data):
    explainer = explainers["epsilon_plus_flat"]
    drawn = graphprop.figure("layers", {"e": explainer}, data[:1])
    explainer(data[0].image[None], torch.tensor([1]))
    chosen = ["pool", "conv2", "conv1"]
    found = images(drawn)[1:]
    for label, got in zip(chosen, found, strict=False):
        relevance = explainer.relevance_at(label)[0].double().sum(0).numpy()
        assert np.array_equal(got, colors(relevance)), label
    assert np.array_equal(found[-1], colors(maps(explainer, data[0])))
    assert len(found) == len(chosen) + 1
    assert "8 x 8 x 8" in written(drawn)


def test_layers_that_no_relevance_reaches_are_left_empty(explainers, data):
    both = {name: explainers[name] for name in ("epsilon_plus_flat", "gradcam")}
    drawn = graphprop.figure("layers", both, data[:1], layer=["pool", "conv1"])
    assert len(images(drawn)) == 4 + 3  # picture, pool, conv1, input; no conv1 of Grad-CAM
    assert "no relevance reaches the layer" in written(drawn)


def test_dense_layers_have_no_map(explainers):
    known = layers_with_places(explainers["rap-bn"].compiled)
    assert "conv1" in known
    assert "head" not in known
    assert named(known, ["conv*"]) == ["conv1", "conv2"]
    with pytest.raises(MethodError, match="'head' names no layer with places"):
        named(known, ["head"])
    assert len(spread(known, 2)) == 2
    assert spread(known, 1)[0] in known


class ChannelsLast(nn.Module):
    """A dense layer at each place of a map with the channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(1, 5, 3), nn.Linear(5, 7), nn.Linear(7, 2)

    def forward(self, x):
        x = self.mix(torch.relu(self.conv(x)).permute(0, 2, 3, 1))
        return self.head(torch.relu(x).mean((1, 2)))


def test_channels_are_summed_wherever_they_are():
    torch.manual_seed(0)
    explainer = graphprop.compile(ChannelsLast().eval(), torch.zeros(1, 1, 8, 8), record=["*"])
    explainer(torch.rand(1, 1, 8, 8), torch.tensor([0]))
    (node,) = (n for n in explainer.network.layers if facts_of(n).label == "mix")
    relevance = explainer.relevance_at("mix")
    found = map_of(relevance, facts_of(node).layout)
    assert relevance.shape == (1, 6, 6, 7)
    assert np.allclose(found, relevance[0].sum(-1))


def test_flows_sum_to_the_map(explainers, data):
    explainer = explainers["rap-bn"]
    subject = scene_of({"r": explainer}, data[:1]).subjects[0]
    with torch.no_grad():
        flows, together = flows_at_input("r", explainer, subject)
    assert list(flows) == ["normal", "inversed"]
    assert np.allclose(sum(flows.values()), together, atol=1e-6 * np.abs(together).max())
    assert np.allclose(together, maps(explainer, data[0]))
    drawn = graphprop.figure("flows", {"rap-bn": explainer}, data[:1])
    found = images(drawn)[1:]
    limit = max(limit_of(one) for one in (*flows.values(), together))
    for values, got in zip((*flows.values(), together), found, strict=True):
        assert np.array_equal(got, np.asarray(heatmap(values, limit)))
    heads = [text.get_text() for text in drawn.texts]
    assert "sum" in heads


def test_flows_whose_sum_is_not_the_map_are_not_called_so(data):
    torch.manual_seed(0)
    made = graphprop.compile(
        Net().eval(), torch.zeros(1, 3, 16, 16), "contrastive_lrp", record=["x"]
    )
    assert "map (not their sum)" in written(graphprop.figure("flows", {"c": made}, data[:1]))


def test_explainers_that_record_nothing_are_refused(data):
    made = graphprop.compile(Net().eval(), torch.zeros(1, 3, 16, 16), "rap-bn")
    for kind in ("layers", "flows"):
        with pytest.raises(InputError, match=r"r records no relevance of layers.*--model SOURCE"):
            graphprop.figure(kind, {"r": made}, data[:1])


def test_flows_of_a_method_with_one_are_refused(explainers, data):
    with pytest.raises(InputError, match="e has one flow of relevance"):
        graphprop.figure("flows", {"e": explainers["epsilon_plus_flat"]}, data[:1])
    made = graphprop.compile(Net().eval(), torch.zeros(1, 3, 16, 16), "rap-bn", record=["conv1"])
    with pytest.raises(InputError, match="does not record the flow 'normal' at the input"):
        graphprop.figure("flows", {"r": made}, data[:1])


# Signs


def test_the_two_parts_sum_to_the_map(explainers, data):
    drawn = graphprop.figure("signs", {"r": explainers["rap-bn"]}, data[:1])
    values = maps(explainers["rap-bn"], data[0])
    _, positive, negative = images(drawn)
    assert np.array_equal(positive, colors(np.maximum(values, 0)))
    assert np.array_equal(negative, colors(np.minimum(values, 0)))
    assert "r, positive" in written(drawn)


def test_correlations_by_hand():
    random = np.random.default_rng(0)
    values = random.standard_normal((16, 16))
    assert correlations(values, -3 * values) == pytest.approx((1, 1))
    pixels, patches = correlations(np.maximum(values, 0), np.minimum(values, 0))
    assert pixels == pytest.approx(
        np.corrcoef(np.maximum(values, 0).ravel(), np.maximum(-values, 0).ravel())[0, 1]
    )
    sums = [
        part.reshape(8, 2, 8, 2).sum((1, 3)).ravel()
        for part in (np.maximum(values, 0), np.maximum(-values, 0))
    ]
    assert patches == pytest.approx(np.corrcoef(*sums)[0, 1])
    assert all(np.isnan(correlations(np.ones((8, 8)), np.eye(8))))
    assert all(np.isnan(correlations(np.full((8, 8), np.nan), np.eye(8))))


def test_a_pair_stands_side_by_side_and_a_part_that_is_missing_says_so(data):
    ramp = np.arange(256.0).reshape(16, 16) + 1
    weight = torch.zeros(3, 3, 16, 16)
    given = {name: Fixed(values, weight) for name, values in {"a": ramp, "b": -2 * ramp}.items()}
    case = [(data[0].image, 1, None)]
    drawn = graphprop.figure("signs", given, case, pairs=[("a", "b")])
    assert np.array_equal(images(drawn)[1], colors(ramp))
    assert np.array_equal(images(drawn)[2], colors(-2 * ramp))
    assert "over pixels: 1.00" in written(drawn)
    alone = written(graphprop.figure("signs", {"a": given["a"]}, case))
    assert "zero everywhere" in alone
    assert "over pixels: undefined" in alone
    with pytest.raises(InputError, match="no explainer 'c' for a pair"):
        graphprop.figure("signs", given, case, pairs=[("a", "c")])


# Top K


@pytest.mark.parametrize("fill", ["blur", "mean", "zero"])
def test_exactly_k_pixels_are_kept_and_the_rest_is_filled(explainers, data, fill):
    scene = scene_of({**baselines(explainers["rap-bn"]), **explainers}, data[:1])
    for name in scene.explainers:  # a constant map among them
        sample = scene.sample(name, scene.subjects[0])
        for count in (1, 25, 256):
            kept = keep(sample, count, fill)
            assert kept.mask.sum() == count
            assert torch.equal(kept.image[:, kept.mask], sample.image[:, kept.mask])
            if not sample.constant and count < 256:
                assert sample.map[kept.mask].min() >= sample.map[~kept.mask].max()
            if fill == "zero":
                assert not kept.image[:, ~kept.mask].any()
            with torch.no_grad():
                expected = explainers["rap-bn"](kept.image[None])[0][0]
            assert np.allclose(kept.logits, expected, atol=1e-5)


def test_what_is_drawn_is_what_is_kept_with_its_prediction(explainers, data):
    explainer = explainers["epsilon_plus_flat"]
    drawn = graphprop.figure("topk", {"e": explainer}, data[:1], top=[10, 50], value="logit")
    scene = scene_of({"e": explainer}, data[:1])
    sample = scene.sample("e", scene.subjects[0])
    found = images(drawn)
    assert len(found) == 2 * 4
    for number, count in enumerate((26, 128)):
        kept = keep(sample, count, "blur")
        picture, mask, _, left = found[4 * number : 4 * number + 4]
        assert np.array_equal(picture, scene.subjects[0].colors)
        assert (mask[..., 0] == 255).sum() == count
        assert np.array_equal(mask[..., 0] == 255, kept.mask)
        assert np.array_equal(left, scene.subjects[0].show(kept.image))
        best = int(kept.logits.argmax())
        assert f"class {best}: {kept.logits[best]:.3g}" in written(drawn)
        assert f"class 1: {kept.logits[1]:.3g}" in written(drawn)


def test_scores_are_probabilities(explainers, data):
    scene = scene_of({"e": explainers["rap-bn"]}, data[:1])
    sample = scene.sample("e", scene.subjects[0])
    logits = sample.logits
    scores = [score_of(sample, logits, k, "score") for k in range(4)]
    assert scores == pytest.approx(torch.softmax(torch.from_numpy(logits), 0).tolist())
    half = [score_of(sample, logits, k, "sigmoid") for k in range(4)]
    assert half == pytest.approx(torch.sigmoid(torch.from_numpy(logits)).tolist())


def test_of_a_map_with_nan_nothing_is_kept_and_a_constant_one_says_so(data):
    weight = torch.zeros(3, 3, 16, 16)
    bad, flat = np.full((16, 16), np.nan), np.ones((16, 16))
    case = [(data[0].image, 1, None)]
    text = written(graphprop.figure("topk", {"bad": Fixed(bad, weight)}, case))
    assert "the map has NaN" in text
    assert "nothing can be kept" in text
    text = written(graphprop.figure("topk", {"flat": Fixed(flat, weight)}, case))
    assert "a constant map" in text


# Sanity


def test_two_classes_side_by_side_with_their_similarity(explainers, data):
    explainer = explainers["epsilon_plus_flat"]
    drawn = graphprop.figure("sanity", {"e": explainer}, data[:1], other=3)
    one, other = maps(explainer, data[0], 1), maps(explainer, data[0], 3)
    found = images(drawn)
    assert np.array_equal(found[1], colors(one))
    assert np.array_equal(found[2], colors(other))
    assert f"r {similarity_of(one, other, 'pearson', False, 0.0):.2f}" in written(drawn)


def test_the_other_class_is_one_that_the_picture_shows_or_else_the_next(explainers, data):
    scene = scene_of(explainers, data)
    shown, _, alone = (scene.sample("rap-bn", subject) for subject in scene.subjects)
    assert other_class(shown) == 2
    order = np.argsort(-alone.logits)
    assert other_class(alone) == order[order != alone.target][0]


def test_weights_are_permuted_from_the_last_layer_and_put_back(explainers, data):
    explainer = explainers["rap-bn"]
    before = {name: tensor.clone() for name, tensor in explainer.state_dict().items()}
    scene = scene_of({"r": explainer}, data[:1])
    sample = scene.sample("r", scene.subjects[0])
    with torch.no_grad():
        found = list(cascade(sample, 100))
    after = explainer.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    groups = list(layers_of(before).values())
    assert [number for number, _, _ in found] == list(range(1, len(groups) + 1))
    changed = dict(before)
    for names, (_, count, values) in zip(reversed(groups), found, strict=True):
        assert count == len(groups)
        changed |= {name: permuted(before[name], name, 0) for name in names}
        explainer.load_state_dict(changed)
        with torch.no_grad():
            assert np.array_equal(values, maps(explainer, data[0]))
        explainer.load_state_dict(before)
    text = written(graphprop.figure("sanity", {"r": explainer}, data[:1], depths=2))
    assert "the last layer of" in text
    assert "all of" in text


def test_weights_are_put_back_where_an_explainer_fails(data):
    network = channel_network(16)
    scene = scene_of({"n": network}, scenes(1, size=16))
    sample = scene.sample("n", scene.subjects[0])
    before = network.weight.clone()

    class Failing(type(network)):
        def __call__(self, x, target):
            raise RuntimeError("no")

    sample.explainer = Failing(network.weight)
    with pytest.raises(RuntimeError):
        list(cascade(sample, 1))
    assert torch.equal(sample.explainer.weight, before)


def test_an_explainer_without_weights_says_so(explainers, data):
    given = baselines(explainers["rap-bn"], ["random"])
    assert "no weight can change" in written(graphprop.figure("sanity", given, data[:1]))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("panle",), {}, MethodError, "no figure 'panle': did you mean 'panel'"),
        (("panel", "E", "D"), {"top": 3}, MethodError, "'panel' has no option 'top'"),
        (("flows", "E", "D"), {"top": 3}, MethodError, "it has none"),
        (("panel",), {}, InputError, "is drawn of explainers and data"),
        (("panel", "E", "D"), {"evaluation": "x"}, InputError, "give both, alone"),
        (("curves", "E", "D"), {}, InputError, "is drawn of an evaluation alone"),
        (("panel", {}, "D"), {}, InputError, "a dict of names and callables"),
        (("panel", {"a": 3}, "D"), {}, InputError, "'a' can't be called"),
        (("panel", "E", []), {}, InputError, "no picture to draw"),
        (("panel", "E", "D"), {"samples": 0}, InputError, "samples must be at least 1"),
        (("panel", "E", "D"), {"targets": [4]}, InputError, "has the class 4"),
        (("panel", "E", "D"), {"columns": 0}, InputError, "columns is a number from 1"),
        (("layers", "E", "D"), {"count": 0}, InputError, "count is a number from 1"),
        (("layers", "E", "D"), {"layer": ["cnov1"]}, MethodError, "did you mean 'conv1'"),
        (("topk", "E", "D"), {"top": 0}, InputError, "top is a percentage"),
        (("topk", "E", "D"), {"top": float("nan")}, InputError, "top is a percentage"),
        (("topk", "E", "D"), {"fill": "ink"}, MethodError, "fill"),
        (("topk", "E", "D"), {"value": "accuracy"}, MethodError, "value"),
        (("sanity", "E", "D"), {"other": 4}, InputError, "must be one from 0 to 3, not 4"),
        (("sanity", "E", "D"), {"depths": 0}, InputError, "depths is a number from 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, error, message, explainers, data):
    stand_ins = {"E": explainers, "D": data}
    given = [
        stand_ins.get(one, one) if isinstance(one, str) and i else one
        for i, one in enumerate(arguments)
    ]
    with pytest.raises(error, match=message):
        graphprop.figure(*given, **options)


def test_too_many_cases_are_refused(explainers, data):
    with pytest.raises(InputError, match="at most 100 cases"):
        scene_of(explainers, [tuple(data[0])] * 101)
