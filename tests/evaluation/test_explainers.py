"""Compiled modules as explainers: logits without relevance."""

import pytest
import torch

import graphprop
from graphprop.evaluation.explainers import LogitsOf, ModuleExplainer, forward_part


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
        torch.nn.Softmax(1),
    ).eval()
    return graphprop.compile(model, torch.zeros(1, 1, 8, 8), "rap")


def test_logits_are_those_of_the_explainer(compiled):
    explainer = ModuleExplainer(compiled)
    for count in (4, 1, 7):
        x = torch.rand(count, 1, 8, 8)
        logits, relevance = explainer(x, torch.zeros(count, dtype=torch.int64))
        torch.testing.assert_close(explainer.logits(x), logits)
        assert relevance.shape == x.shape
        assert not logits.requires_grad
    assert isinstance(explainer.forward, torch.jit.ScriptModule)


def test_logits_follow_the_weights(compiled):
    explainer = ModuleExplainer(compiled)
    x = torch.rand(2, 1, 8, 8)
    before, state = explainer.logits(x), explainer.state_dict()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    original = {name: tensor.clone() for name, tensor in state.items()}
    try:
        explainer.load_state_dict(zeros)
        assert (explainer.logits(x) == 0).all()
    finally:
        explainer.load_state_dict(original)
    torch.testing.assert_close(explainer.logits(x), before)


def test_what_cannot_be_traced_is_run_in_full():
    class Python(torch.nn.Module):
        def forward(self, x, target):
            return torch.tensor([[float(row.sum()), 1.0] for row in x]), x

    class OfItsBatch(torch.nn.Module):
        def forward(self, x, target):
            return x.flatten(1)[:, :2] * float(len(x)), x

    x = torch.rand(3, 1, 4, 4)
    for module in (Python(), OfItsBatch()):
        found = forward_part(module, x)
        assert isinstance(found, LogitsOf)
        torch.testing.assert_close(found(x[:2]), module(x[:2], None)[0])
