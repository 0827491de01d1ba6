"""An explainer is copied, pickled and sent to other processes like any module."""

import copy
import io
import pickle
import subprocess
import sys
from functools import lru_cache

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import graphprop
from graphprop.emit.execute import run_source
from graphprop.ir.facts import BATCH, facts_of
from graphprop.ir.network import Network
from graphprop.ir.show import show
from graphprop.ir.writer import Writer
from graphprop.lowering.legalize import legalize
from graphprop.ops import Relu


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(self.norm(x).amax((2, 3)))


@graphprop.rule
def halved(layer, x, r, *, factor=0.5):
    """A rule of the user's own."""
    return r * factor


x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@lru_cache
def explainer_of(method="rap-bn"):
    torch.manual_seed(0)
    options = {"steps": 4} if method == "integrated_gradients" else {}
    rules = {"layers.0": "halved"} if method == "epsilon_plus" else None
    return graphprop.compile(
        Net().eval(), x, method, rules=rules, record=["norm"], progress=print, **options
    )


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": by_pickle, "torch.save": by_torch}
METHODS = ["epsilon_plus", "rap-bn", "hedge", "integrated_gradients", "deeplift"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_the_same_explainer(how, method, tmp_path):
    explainer = explainer_of(method)
    wanted = explainer(x)
    found = COPIES[how](explainer)
    assert type(found) is type(explainer)
    assert found.module is not explainer.module
    assert found.source == explainer.source
    torch.testing.assert_close(found(x), wanted, rtol=0, atol=0)
    assert torch.equal(found.relevance_at("norm"), explainer.relevance_at("norm"))
    assert found.layers == explainer.layers
    assert found.settings == explainer.settings
    for one, other in (
        (found.network, explainer.network),
        (found.lowered, explainer.lowered),
        (found.legal, explainer.legal),
    ):
        assert show(one) == show(other)
        assert [facts_of(n).signal for n in one.layers] == [
            facts_of(n).signal for n in other.layers
        ]
    assert show(legalize(found.lowered, "onnx")) == show(legalize(explainer.lowered, "onnx"))
    files = (
        {path.name: path.read_bytes() for path in made.save(tmp_path / name, check=False).iterdir()}
        for name, made in (("found", found), ("own", explainer))
    )
    assert next(files) == next(files)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_the_module(how):
    module = explainer_of().module
    found = COPIES[how](nn.Sequential(module))[0]
    assert type(found) is type(module)
    torch.testing.assert_close(found(x), module(x), rtol=0, atol=0)
    # a copy of its own: the other's weights stay as they are, and its derived ones follow
    other = run_source(explainer_of().source)(
        {name: tensor * 0.5 for name, tensor in explainer_of().legal.stored.items()}
    )
    found.load_state_dict(other.state_dict())
    torch.testing.assert_close(found(x), other(x))
    assert not torch.allclose(found(x)[1], module(x)[1], rtol=1e-3)


def test_a_deep_network_is_pickled():
    network = Network()
    writer = Writer(network)
    value = writer.placeholder("x", torch.empty(BATCH, 3, device="meta"))
    for _ in range(2 * sys.getrecursionlimit()):
        value = Relu()(value)
    network.graph.output(value.node)
    for how in COPIES.values():
        assert show(how(network)) == show(network)


class Explained(Dataset):
    """Inputs with their relevance, for the workers of a DataLoader."""

    def __init__(self, *explainers):
        self.explainers = explainers

    def __len__(self):
        return len(x)

    def __getitem__(self, index):
        one = x[index : index + 1]
        with torch.no_grad():
            return [explainer(one)[1][0] for explainer in self.explainers]


def test_a_spawned_worker_explains():
    explainer = explainer_of()
    data = Explained(explainer, explainer.module)
    loader = DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    (found,) = loader
    for relevance in found:
        torch.testing.assert_close(relevance, explainer(x)[1])


ALONE = """
import sys
sys.modules["graphprop"] = None  # what is generated stands alone
sys.path.insert(0, "net")
import torch
import explainer

def work(module, x, queue):
    queue.put([part.tolist() for part in module(x)])

if __name__ == "__main__":
    import copy, pickle
    context = torch.multiprocessing.get_context("spawn")
    module, queue = explainer.load(), context.Queue()
    x = torch.load("x.pt")
    process = context.Process(target=work, args=(module, x, queue))
    process.start()
    found = [torch.tensor(part) for part in queue.get(timeout=100)]
    process.join()
    torch.save(module, "module.pt")
    again = torch.load("module.pt", weights_only=False)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), again):
        torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)
        other.load_state_dict({name: t * 0.5 for name, t in module.state_dict().items()})
        assert not torch.equal(other(x)[1], module(x)[1])
    torch.save(found, "y.pt")
"""


def test_the_generated_module_alone_is_sent_to_a_worker(tmp_path):
    explainer_of().save(tmp_path / "net", onnx=False, check=False)
    (tmp_path / "alone.py").write_text(ALONE)
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-B", "alone.py"], cwd=tmp_path, check=True, timeout=120)
    logits, relevance = explainer_of()(x)
    found = torch.load(tmp_path / "y.pt")
    torch.testing.assert_close(found, [logits, relevance])
