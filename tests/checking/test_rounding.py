"""What a compile records for reports: errors from stage to stage, and the account of each layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprop
from graphprop import api
from graphprop.artifact.schema import complaint_about
from graphprop.artifact.write import layer_entries, onnx_names
from graphprop.checking.arbiter import GraphArbiter, stage_nodes
from graphprop.checking.probes import probes
from graphprop.checking.rounding import FLOAT32, measured
from graphprop.checking.stages import stages_of

LOSSES = {"bias", "zero_denominators", "stabilizer", "outside", "scaled"}


class Net(nn.Module):
    """A branch, a norm, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head((x + self.branch(x).relu()).mean((2, 3)))


def compiled(method: str, **parameters: object) -> api.CompiledExplainer:
    torch.manual_seed(0)
    return graphprop.compile(Net().eval(), torch.zeros(1, 1, 8, 8), method, **parameters)


@pytest.mark.parametrize("method", ["epsilon_plus_flat", "lrp_z", "rap", "lrp_alpha2_beta1"])
def test_what_comes_in_goes_out_or_is_lost(method):
    report = compiled(method).check()
    accounts = report.ledger["accounts"]
    assert [entry["note"] for entry in accounts] == [None] * len(accounts)
    for entry in accounts:
        assert set(entry["lost"]) == LOSSES
        rest = entry["came_in"] - entry["went_out"] - sum(entry["lost"].values())
        assert abs(rest) <= 1e-5 * max(1, abs(entry["came_in"])), entry
    lost = sum(sum(entry["lost"].values()) for entry in accounts)
    start, arrived = (report.ledger[name][0] for name in ("start", "input"))
    assert start - lost == pytest.approx(arrived, rel=1e-4, abs=1e-5)
    assert accounts[-1]["operator"] == "input"
    assert accounts[-1]["came_in"] == pytest.approx(arrived, rel=1e-6)


def test_a_rule_that_is_not_meant_to_conserve_says_so():
    accounts = compiled("gradient").check().ledger["accounts"]
    notes = {entry["note"] for entry in accounts if entry["rule"] == "gradient"}
    assert notes == {"it carries a derivative, which is no share of what comes in"}
    without = next(entry for entry in accounts if entry["note"])
    assert without["went_out"] is None
    assert set(without["lost"].values()) == {None}


@pytest.mark.parametrize("method", ["rap", "rap-bn", "gradcam"])
def test_every_stage_has_an_error_of_every_backend(method, tmp_path):
    explainer = compiled(method)
    report = explainer.check()
    rows = report.stages["rows"]
    ran = {result.name for result in report.backends}
    assert ran == {"python", "onnxruntime", "onnx.reference"}
    assert report.stages["sample"] == report.ledger["samples"][0]
    last = rows[-1]
    assert (last["label"], last["kind"]) == (None, "relevance")
    assert set(last["errors"]) == ran
    for row in rows:
        assert row["errors"], row
        assert 1e-5 <= row["allowed"] <= 1e-4
        assert all(0 <= error <= 1e-5 for error in row["errors"].values()), row
    results = [row["label"] for row in rows if row["kind"] == "result"]
    assert {"first", "head"} <= set(results)
    # the last is the map itself: the error there is what the check found, on this one sample
    python = next(result for result in report.backends if result.name == "python")
    place = python.rows.index(report.stages["sample"])
    assert last["errors"]["python"] <= 10 * max(python.samples[place].error, 1e-8)
    assert complaint_about(api.read_manifest(explainer.save(tmp_path / "net"))) is None


def test_the_error_at_a_stage_is_that_of_its_values():
    explainer = compiled("lrp_z").compiled
    stages = stages_of(layer_entries(explainer), onnx_names(explainer))
    samples = probes(explainer.input_shapes, explainer.logits_shape, 1)
    arbiter = GraphArbiter(explainer, stages, samples)
    exact: dict[int, torch.Tensor] = {}
    arbiter.truth()
    lowered = explainer.lowered
    nodes = stage_nodes(lowered, stages)

    def keep(node, value):
        exact.update(dict.fromkeys(nodes.get(node, ()), value))

    arbiter.explain(lowered, 0, torch.float64, keep)
    wrong = next(i for i, stage in enumerate(stages) if stage.label == "branch")
    altered = {i: value * (1.001 if i == wrong else 1) for i, value in exact.items()}
    found = measured(arbiter, stages, 0, {"altered": altered})
    assert found["altered"].pop(wrong) == pytest.approx(1e-3)
    assert set(found["altered"].values()) == {0.0}
    assert all(0 <= error < 1e-5 for error in found[FLOAT32].values())


def test_a_mean_over_samples_is_not_followed():
    report = compiled("smoothgrad").check()
    assert report.passed
    assert report.stages is None
    assert "accounts" not in report.ledger
