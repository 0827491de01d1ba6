"""What an explainer is called with: each backend handles it alike, or refuses it."""

import copy
from functools import lru_cache

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import nn

import graphprop
from graphprop.emit.onnx import to_onnx
from graphprop.errors import InputError
from graphprop.lowering.interpret_map import interpret_map
from graphprop.lowering.legalize import legalize

CLASSES = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).amax((2, 3)))


class Dense(nn.Module):
    """Logits at each place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.head = nn.Conv2d(3, CLASSES, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 6), nn.Linear(3, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, left, right):
        return self.head(torch.relu(self.left(left) + self.right(right)))


METHODS = {
    "epsilon_plus_flat": {},
    "rap-bn": {},
    "contrastive_lrp": {},
    "integrated_gradients": {"steps": 4, "chunk": 3},
}
IMAGES = [(Net, method) for method in METHODS] + [(Dense, "epsilon_plus")]


@lru_cache
def explainer_of(kind, method="epsilon_plus", **options):
    torch.manual_seed(0)
    shapes = ((5,), (3,)) if kind is Two else ((1, 6, 6),)
    example = tuple(torch.zeros(2, *shape) for shape in shapes)
    options |= METHODS.get(method, {})
    return graphprop.compile(kind().eval(), example, method, **options)


@lru_cache
def session_of(explainer):
    network = legalize(explainer.lowered, "onnx")
    model = onnx_ir.to_proto(to_onnx(network, explainer.compiled.recorded_nodes(network)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def on_onnx(explainer, x, target):
    feeds = {"input": np.asarray(x), "target": np.asarray(target)}
    return [torch.as_tensor(found) for found in session_of(explainer).run(None, feeds)]


def same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "method"), IMAGES)
@pytest.mark.parametrize("count", [1, 3])
def test_every_backend_reads_a_target_alike(kind, method, count):
    explainer = explainer_of(kind, method)
    x = torch.randn(3, 1, 6, 6)[:count]
    logits, unasked = explainer(x)
    best = logits.reshape(count, CLASSES, -1).sum(2).argmax(1)
    mixed = torch.tensor([2, -1, 0])[:count]
    for target, classes in (
        ([-1], best),
        ([2], torch.full((count,), 2)),
        ([-1] * count, best),
        (mixed.tolist(), torch.where(mixed < 0, best, mixed)),
    ):
        weights = torch.zeros_like(logits)
        weights[torch.arange(count), classes] = 1.0
        wanted = explainer(x, weights)
        if torch.equal(classes, best):
            same(wanted, (logits, unasked))
        given = torch.tensor(target)
        shapes = [given] if len(target) > 1 else [given, given[0], target[0], int(given)]
        for same_target in (*shapes, target, given.to(torch.int8), given.numpy()):
            same(explainer(x, same_target), wanted)
            same(explainer.module(x, same_target), wanted)
        same(on_onnx(explainer, x, given), wanted)
        same(on_onnx(explainer, x, classes), wanted)
        arbiter, (relevance,) = interpret_map(explainer.lowered, {"x": x}, given)
        same((arbiter.float(), relevance.float()), wanted)


@pytest.mark.parametrize(("kind", "method"), IMAGES)
@pytest.mark.parametrize("wrong", [-2, CLASSES, 10**12, -(10**12)])
def test_onnx_gives_nan_for_what_is_no_class_and_for_nothing_else(kind, method, wrong):
    explainer = explainer_of(kind, method, record=("conv",) if kind is Dense else ())
    x = torch.randn(3, 1, 6, 6)
    logits, *maps = on_onnx(explainer, x, np.array([1, wrong, -1]))
    fine, *wanted = on_onnx(explainer, x, np.array([1, 0, -1]))
    assert len(maps) == 1 + (kind is Dense)
    assert torch.equal(logits, fine)
    for found, known in zip(maps, wanted, strict=True):
        assert found[1].isnan().all()
        assert torch.equal(found[::2], known[::2])
        assert known.isfinite().all()
    for both in on_onnx(explainer, x, np.array([wrong]))[1:]:
        assert both.isnan().all()


CLASS = f"a target must be a class from 0 to {CLASSES - 1}, or -1 for the largest logit, not "
COUNT = r"a target must be one class for all, or one for each of the 3 samples, not a tensor of "
KIND = (
    r"a target must be whole numbers \(classes\) or floating point \(weights of the logits\), not"
)
WEIGHTS = r"give weights of shape \[3, 4\], not {}, or classes, which are int64"
WRONG_TARGETS = {
    "too large": (torch.tensor([0, 1, 7]), CLASS + "7"),
    "number too large": (CLASSES, CLASS + "4"),
    "negative": (torch.tensor([0, -2, -1]), CLASS + "-2"),
    "negative number": (-2, CLASS + "-2"),
    "wrapping round": (torch.tensor([255, 1, 2], dtype=torch.uint8), CLASS + "255"),
    "too few": (torch.tensor([0, 1]), COUNT + r"shape \[2\]"),
    "too many": (torch.tensor([0, 1, 2, 3]), COUNT + r"shape \[4\]"),
    "none": (torch.tensor([], dtype=torch.int64), COUNT + r"shape \[0\]"),
    "a column": (torch.tensor([[0], [1], [2]]), COUNT + r"shape \[3, 1\]"),
    "one-hot": (torch.eye(CLASSES, dtype=torch.int64)[:3], COUNT + r"shape \[3, 4\]"),
    "bool": (torch.tensor([True, False, True]), KIND + " torch.bool"),
    "True": (True, KIND + " torch.bool"),
    "complex": (torch.zeros(3, CLASSES, dtype=torch.complex64), KIND + " torch.complex64"),
    "text": ("cat", KIND + " 'cat'"),
    "texts": (["cat", "dog", "cat"], KIND + r" \['cat', 'dog', 'cat'\]"),
    "an object": (nn.ReLU(), KIND + r" ReLU\(\)"),
    "classes with a point": (torch.tensor([0.0, 1.0, 2.0]), WEIGHTS.format(r"\[3\]")),
    "a number with a point": (1.0, WEIGHTS.format(r"\[\]")),
    "weights of other classes": (torch.zeros(3, 5), WEIGHTS.format(r"\[3, 5\]")),
    "weights of one sample": (torch.zeros(1, CLASSES), WEIGHTS.format(r"\[1, 4\]")),
}


@pytest.mark.parametrize("name", WRONG_TARGETS)
@pytest.mark.parametrize("method", ["epsilon_plus_flat", "integrated_gradients"])
def test_a_wrong_target_is_refused(method, name):
    target, text = WRONG_TARGETS[name]
    explainer = explainer_of(Net, method)
    x = torch.randn(3, 1, 6, 6)
    with pytest.raises((ValueError, TypeError), match=text):
        explainer.module(x, target)
    with pytest.raises(InputError, match=text):
        explainer(x, target)


FORM = r"an input must have shape \[N, 1, 6, 6\], not "
TYPE = r"an input must be of torch.float32, not torch.{}: convert and scale it as for the model"
TENSOR = r"an input must be a torch.Tensor \[N, 1, 6, 6\] of torch.float32, not "
x = torch.zeros(3, 1, 6, 6)
WRONG_INPUTS = {
    "without the batch": (x[0], FORM + r"\[1, 6, 6\]: add the batch axis by x\[None\]"),
    "another size": (torch.zeros(3, 1, 6, 5), FORM + r"\[3, 1, 6, 5\]: resize it, or compile"),
    "more channels": (torch.zeros(3, 3, 6, 6), FORM + r"\[3, 3, 6, 6\]"),
    "channels last": (torch.zeros(3, 6, 6, 1), FORM + r"\[3, 6, 6, 1\]"),
    "flat": (x.flatten(1), FORM + r"\[3, 36\]"),
    "a number": (torch.tensor(1.0), FORM + r"\[\]"),
    "bytes": (x.to(torch.uint8), TYPE.format("uint8")),
    "double": (x.double(), TYPE.format("float64")),
    "half": (x.half(), TYPE.format("float16")),
    "numpy": (x.numpy(), TENSOR + "ndarray"),
    "a list": (x.tolist(), TENSOR + "list"),
    "a tuple": ((x,), TENSOR + "tuple"),
    "nothing": (None, TENSOR + "NoneType"),
    "text": ("cat.png", TENSOR + "str"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
@pytest.mark.parametrize("method", ["epsilon_plus_flat", "integrated_gradients"])
def test_a_wrong_input_is_refused(method, name):
    wrong, text = WRONG_INPUTS[name]
    explainer = explainer_of(Net, method)
    with pytest.raises((ValueError, TypeError), match=text):
        explainer.module(wrong)
    with pytest.raises(InputError, match=text):
        explainer(wrong)


@pytest.mark.parametrize(
    ("given", "target", "text"),
    [
        (x[0], [0], "Invalid rank for input"),
        (torch.zeros(3, 1, 6, 5), [0], "invalid dimensions for input"),
        (x.double(), [0], "Unexpected input data type"),
        (x.to(torch.uint8), [0], "Unexpected input data type"),
        (x, 0, "Invalid rank for input"),
        (x, [0.0], "Unexpected input data type"),
        (x, [True], "Unexpected input data type"),
        (x, np.zeros(1, np.int32), "Unexpected input data type"),
        (x, np.zeros(0, np.int64), "target"),
        (x, [0, 1], "target"),
        (x, [0, 1, 2, 3], "target"),
        (x[:1], [0, 1, 2], "target"),
    ],
)
def test_onnx_refuses_what_python_refuses(given, target, text):
    with pytest.raises(Exception, match=text):
        on_onnx(explainer_of(Net), given, np.asarray(target))


def test_several_inputs_have_as_many_samples():
    explainer = explainer_of(Two)
    left, right = torch.randn(3, 5), torch.randn(3, 3)
    logits, maps = explainer(left, right, -1)
    session = session_of(explainer)
    target = np.array([-1])
    feeds = {"input": left.numpy(), "input_2": right.numpy(), "target": target}
    same(map(torch.as_tensor, session.run(None, feeds)), (logits, *maps))
    for first, second in ((3, 1), (1, 3), (2, 3)):
        text = f"give as many samples of each input, not {first} and {second}"
        parts = left[:first], right[:second]
        with pytest.raises(ValueError, match=text):
            explainer.module(*parts)
        with pytest.raises(InputError, match=text):
            explainer(*parts)
        feeds = {"input": parts[0].numpy(), "input_2": parts[1].numpy(), "target": target}
        with pytest.raises(Exception, match=r"input_reshape|input_2_reshape|mismatch|broadcast"):
            session.run(None, feeds)
    with pytest.raises(InputError, match=r"an input must have shape \[N, 3\], not \[3\]"):
        explainer(left, torch.tensor([0, 1, 2]))
    for inputs in ((left,), (left, right, right, right)):
        with pytest.raises(InputError, match="the explainer takes 2 inputs, and a target, not"):
            explainer(*inputs)


def test_an_input_has_the_type_of_the_weights():
    explainer = copy.deepcopy(explainer_of(Net)).double()
    x = torch.randn(3, 1, 6, 6)
    logits, relevance = explainer(x.double())
    assert logits.dtype == relevance.dtype == torch.float64
    for call, error in ((explainer, InputError), (explainer.module, TypeError)):
        with pytest.raises(error, match=r"an input must be of torch.float64, not torch.float32"):
            call(x)


def test_an_empty_batch_is_explained():
    explainer = explainer_of(Net)
    for target in (None, 1, torch.tensor([], dtype=torch.int64), torch.zeros(0, CLASSES)):
        logits, relevance = explainer(torch.zeros(0, 1, 6, 6), target)
        assert logits.shape == (0, CLASSES)
        assert relevance.shape == (0, 1, 6, 6)


TARGETS = {
    "largest": None,
    "one": 2,
    "each": torch.tensor([2, -1, 0]),
    "for all": torch.tensor([1]),
    "weights": torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", ["epsilon_plus_flat", "integrated_gradients"])
def test_the_checks_let_torch_compile_and_export(method, name):
    target, x = TARGETS[name], torch.randn(3, 1, 6, 6)
    explainer = explainer_of(Net, method)
    wanted = explainer(x, target)
    for callee in (explainer, explainer.module):
        torch._dynamo.reset()
        same(torch.compile(callee, backend="eager", fullgraph=True)(x, target), wanted)
    for strict in (False, True) if name == "each" else (False,):
        program = torch.export.export(explainer.module, (x, target), strict=strict)
        same(program.module()(x, target), wanted)


def test_what_torch_traces_is_refused_where_it_can_be():
    module, x = explainer_of(Net).module, torch.randn(3, 1, 6, 6)
    batch = {0: torch.export.Dim("N")}
    target = torch.tensor([0, 1, 2])
    program = torch.export.export(module, (x, target), dynamic_shapes=(batch, batch)).module()
    more = torch.randn(5, 1, 6, 6), torch.tensor([0, -1, 1, 3, 2])
    same(program(*more), module(*more))
    for wrong in (torch.tensor([0, 1, 4]), torch.tensor([0, -2, 1])):
        with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
            program(x, wrong)
    with pytest.raises((RuntimeError, AssertionError, ValueError), match=r"(?i)guard|shape|size"):
        program(x, torch.tensor([0, 1]))
    for wrong in (torch.zeros(3, 1, 6, 5), torch.zeros(3, 2, 6, 6)):
        with pytest.raises(ValueError, match="an input must have shape"):
            torch.compile(module, backend="eager")(wrong)
    with pytest.raises(ValueError, match="an input must have shape"):
        torch.export.export(module, (torch.zeros(3, 1, 6, 5), target))
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(module, (x, target), check_trace=False)
    same(traced(x, target), module(x, target))


@pytest.mark.parametrize("name", ["stabilize", "start", "check_input", "target_of", "derive", "F"])
def test_a_layer_called_like_a_function_of_the_source(name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, nn.Linear(4, 4))
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.head(torch.relu(getattr(self, name)(x)))

    model, x = Named().eval(), torch.randn(3, 4)
    explainer = graphprop.compile(model, x, "lrp_epsilon")
    torch.testing.assert_close(explainer(x)[0], model(x))
    assert explainer.layers[0].path == name
