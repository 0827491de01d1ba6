"""The variables of ``forward`` that the printer lists are those that its source assigns."""

import ast

import pytest
import torch
from torch import nn

import graphprop


def assigned(source: str) -> list[str]:
    """The names that ``Explainer.forward`` assigns, each once, in order."""
    forward = next(
        part
        for kind in ast.parse(source).body
        if isinstance(kind, ast.ClassDef)
        for part in kind.body
        if isinstance(part, ast.FunctionDef) and part.name == "forward"
    )
    names = (
        name.id
        for statement in forward.body
        for name in ast.walk(statement)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    )
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "rap-bn", "smoothgrad"])
@pytest.mark.parametrize("record", [(), ("2*",)])
@pytest.mark.parametrize("rank", [1, 2])
def test_variables_of_forward(method: str, record: tuple[str, ...], rank: int) -> None:
    conv, pool = (nn.Conv1d, nn.MaxPool1d) if rank == 1 else (nn.Conv2d, nn.MaxPool2d)
    layers = [conv(2, 3, 3), nn.ReLU(), pool(2), conv(3, 4, 2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4 * 2**rank, 3)).eval()
    explainer = graphprop.compile(model, torch.zeros(2, 2, *[8] * rank), method, record=record)
    generated = explainer.generated
    assert list(generated.variables) == assigned(generated.source)
    if method != "smoothgrad":
        assert set(generated.results.values()) & set(generated.variables)
