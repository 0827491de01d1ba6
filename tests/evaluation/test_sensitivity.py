"""Whether maps change with the class, with noise and with the weights."""

import numpy as np
import pytest
import torch
from torch import nn

import graphprop
from graphprop.errors import MethodError
from graphprop.evaluation import evaluate
from graphprop.evaluation.perturbation import ranks_of
from graphprop.evaluation.registry import NotApplicable, find_metric
from graphprop.evaluation.sample import explain_batch
from graphprop.evaluation.sensitivity import another_class, layers_of, permuted
from support.evaluation import Fixed, Linear, Weighted, sample


def explained(explainer, image, target=0, **options):
    _, maps = explain_batch(explainer, image[None], torch.tensor([target]))
    return sample(maps[0], image=image, explainer=explainer, target=target, **options)


def value(name, one):
    (found,) = find_metric(name).values([one])
    return found


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(0).random((1, 8, 8)) + 0.5).float()


def test_class_sensitivity(image):
    weight = torch.from_numpy(np.random.default_rng(1).random((3, 1, 8, 8))).float()
    weight[1] = weight[0]
    weight[2] = -weight[0]
    network = Linear(weight)
    assert value("class_sensitivity", explained(network, image)) == pytest.approx(1)
    # a picture that shows the first two classes is compared with the third
    shown = explained(network, image, labels=(0, 1))
    assert value("class_sensitivity", shown) == pytest.approx(1)
    assert value("class_sensitivity:signed=true", shown) == pytest.approx(-1)
    both = "class_sensitivity:similarity=spearman,signed=true"
    assert value(both, shown) == pytest.approx(-1)
    network.weight[2] = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 8, 8)))
    expected = np.corrcoef(shown.map.reshape(-1), (image * weight[2]).reshape(-1))[0, 1]
    assert value("class_sensitivity", shown) == pytest.approx(abs(expected), abs=1e-6)


def test_which_other_class(image):
    one = sample(np.zeros((8, 8)), image=image, explainer=Linear(torch.zeros(4, 1, 8, 8)))
    one.logits = np.array([4.0, 3.0, 2.0, 1.0])
    assert another_class(one, "next") == 1
    one.labels = frozenset({0, 1})
    assert another_class(one, "next") == 2
    assert another_class(one, "random") in (2, 3)
    assert another_class(one, "random") == another_class(one, "random")
    one.labels = frozenset(range(4))
    assert another_class(one, "next") == 1


@pytest.mark.parametrize("values", [0.0, 1.0, np.nan])
def test_a_constant_map_tells_no_classes_apart(values, image):
    one = explained(Fixed(np.full((8, 8), values)), image)
    assert value("class_sensitivity", one) == 1


def test_a_map_of_another_class_that_is_nan(image):
    def explainer(x, target):
        maps = torch.where(target[:, None, None] == 0, x[:, 0], torch.nan)
        return torch.zeros(len(x), 3), maps

    assert value("class_sensitivity", explained(explainer, image)) == 1


def test_one_class(image):
    one = explained(Linear(torch.ones(1, 1, 8, 8)), image)
    assert "two classes or more" in str(value("class_sensitivity", one))


def test_max_sensitivity(image):
    weight = torch.ones(2, 1, 8, 8)
    one = explained(Linear(weight), image)
    span = 0.1 * float(image.max() - image.min())
    found = value("max_sensitivity:radius=0.1,draws=5", one)
    random = one.random("sensitivity")
    changes = [random.uniform(-span, span, (1, 8, 8)) for _ in range(5)]
    expected = max(np.linalg.norm(c) for c in changes) / np.linalg.norm(image)
    assert found == pytest.approx(expected, rel=1e-5)
    twice = value("max_sensitivity:radius=0.2,draws=5", one)
    assert twice == pytest.approx(2 * found, rel=1e-5)


def test_max_sensitivity_where_there_is_no_map(image):
    assert value("max_sensitivity", explained(Fixed(np.zeros((8, 8))), image)) == 2
    assert value("max_sensitivity", explained(Fixed(np.full((8, 8), np.nan)), image)) == 2
    assert value("max_sensitivity", explained(Fixed(np.ones((8, 8))), image)) == 0
    with pytest.raises(MethodError, match="draws is from 1"):
        value("max_sensitivity:draws=0", explained(Fixed(np.ones((8, 8))), image))


def test_randomization_of_a_callable_without_weights(image):
    found = value("randomisation", explained(Linear(torch.ones(2, 1, 8, 8)), image))
    assert isinstance(found, NotApplicable)
    assert "no load_state_dict" in str(found)


def test_randomization_by_hand(image):
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 1, 8, 8))).float()
    network = Weighted(weight.clone())
    one = explained(network, image)
    found = value("randomisation:similarity=pearson", one)
    changed = permuted(weight, "fc.weight", 0)
    expected = np.corrcoef(one.map.reshape(-1), (image * changed[0])[0].reshape(-1))[0, 1]
    assert found == pytest.approx(abs(expected), abs=1e-6)
    signed = value("randomisation:similarity=pearson,signed=true", one)
    assert signed == pytest.approx(expected, abs=1e-6)
    assert torch.equal(network.weight, weight)  # put back
    assert sorted(changed.reshape(-1).tolist()) == sorted(weight.reshape(-1).tolist())
    assert found < 0.4


def test_randomization_at_some_depths():
    """Layers are permuted as for all depths; maps are made after some of them and the last."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(7)]
    compiled = graphprop.compile(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval(),
        torch.zeros(2, 1, 8, 8),
        "input_x_gradient",
    )
    data = [(torch.randn(1, 8, 8), 1, None)]
    curves = {}
    for depths in (0, 3, 99):
        found = evaluate({"a": compiled}, data, [("randomisation", {"depths": depths})])
        ((x, y),) = found.curves.values()
        curves[depths] = dict(zip(x, y, strict=True))
    assert list(curves[0]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(curves[3]) == [3, 5, 8]
    assert curves[3] == {depth: curves[0][depth] for depth in curves[3]}
    assert curves[99] == curves[0]
    with pytest.raises(MethodError, match="depths is from 0"):
        evaluate({"a": compiled}, data, [("randomisation", {"depths": -1})])


def test_randomization_of_maps_that_do_not_depend_on_weights(image):
    class Blind(Weighted):
        def __call__(self, x, target):
            return self.logits(x), x

    weight = torch.rand(2, 1, 8, 8)
    assert value("randomisation", explained(Blind(weight), image)) == pytest.approx(1)
    flat = torch.zeros(2, 1, 8, 8)
    assert value("randomisation", explained(Weighted(flat), image)) == 1  # nothing to change


def test_weights_are_put_back_where_an_explainer_fails(image):
    class Failing(Weighted):
        def load_state_dict(self, state):
            self.weight = state["fc.weight"]
            self.broken = not torch.equal(self.weight, before)

        def __call__(self, x, target):
            if getattr(self, "broken", False):
                raise RuntimeError("broken")
            return super().__call__(x, target)

    before = torch.rand(2, 1, 8, 8)
    network = Failing(before.clone())
    one = explained(network, image)
    with pytest.raises(RuntimeError, match="broken"):
        value("randomisation", one)
    assert torch.equal(network.weight, before)


def test_layers_of_a_state():
    state = {
        "module.conv1_weight": torch.zeros(1),
        "module.bn1_scale": torch.zeros(1),
        "module.bn1_shift": torch.zeros(1),
        "module.noise": torch.zeros(1),
        "module.conv1_bias": torch.zeros(1),
        "count.num_batches_tracked": torch.zeros(1, dtype=torch.int64),
    }
    assert layers_of(state) == {
        "module.conv1": ["module.conv1_weight", "module.conv1_bias"],
        "module.bn1": ["module.bn1_scale", "module.bn1_shift"],
    }
    assert layers_of({"w": torch.zeros(1)}) == {"w": ["w"]}


def test_randomization_of_a_compiled_explainer():
    """The weights of a compiled explainer are replaced without compiling again."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 3),
    ).eval()
    explainer = graphprop.compile(model, torch.zeros(1, 1, 8, 8), "lrp_epsilon")
    image = torch.rand(1, 8, 8)
    one = explained(explainer, image)
    before = one.map
    found = value("randomisation", one)
    assert 0 <= found < 0.9
    depths, similar = one.curves["depth"]
    assert depths == [1, 2]  # the linear layer, then the convolution with it
    state = {name: tensor.clone() for name, tensor in explainer.state_dict().items()}
    last = [names for layer, names in layers_of(state).items() if layer.endswith("3")]
    assert last == [[name for name in state if "3_" in name]]
    changed = {n: permuted(t, n, 0) if n in last[0] else t for n, t in state.items()}
    explainer.load_state_dict(changed)
    other = explained(explainer, image).map
    explainer.load_state_dict(state)
    first = abs(np.corrcoef(ranks_of(before.reshape(-1)), ranks_of(other.reshape(-1)))[0, 1])
    assert similar[0] == pytest.approx(first)
    assert found == pytest.approx(np.mean(similar))
    np.testing.assert_array_equal(explained(explainer, image).map, before)
