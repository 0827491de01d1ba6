"""A sum in ONNX: an engine that adds entries one after the other keeps the small ones, too."""

import onnx
import torch
from torch import nn

import graphprop


def test_a_sum_over_a_sample_goes_axis_by_axis(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )
    explainer = graphprop.compile(model.eval(), torch.zeros(2, 1, 8, 8), "rap")
    explainer.save(tmp_path / "rap", check=False)
    graph = onnx.load(tmp_path / "rap" / "explainer.onnx").graph
    axes = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer}
    sums = [axes[node.input[1]] for node in graph.node if node.op_type == "ReduceSum"]
    assert sums[:3] == [[3], [2], [1]]
    assert all(len(one) == 1 for one in sums)
