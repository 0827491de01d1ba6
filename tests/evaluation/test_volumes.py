"""Signals and volumes: a picture that is repeated along an axis has the picture's values."""

import json
from pathlib import Path

import nodules
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from graphprop.cli import main
from graphprop.errors import InputError
from graphprop.evaluation import baselines, evaluate
from graphprop.evaluation.baselines import edge_map
from graphprop.evaluation.data.pictures import box_of
from graphprop.evaluation.localization import grown
from graphprop.evaluation.sample import Case

ROOT = Path(__file__).resolve().parents[2]
BY_PLACES = (
    "pointing_game",
    "mu",
    "mu_w",
    "outside_inside_all",
    "outside_inside_pos",
    "outside_inside_minmax",
    "pixel_accuracy",
    "miou",
    "mean_average_precision",
    "positive_ratio",
    "gini",
)


class Linear:
    """A linear network on anything with channels, explained by input times weight."""

    def __init__(self, weight):
        self.weight = weight  # [classes, C, places ...]

    def logits(self, x):
        return x.flatten(1) @ self.weight.flatten(1).T

    def __call__(self, x, target):
        return self.logits(x), x * self.weight[target]


def drawn(*size, seed=0):
    """A network with three classes, and cases of it."""
    random = np.random.default_rng(seed)
    network = Linear(torch.from_numpy(random.standard_normal((3, 2, *size))))
    cases = []
    for target in range(3):
        mask = np.zeros(size, dtype=bool)
        mask[tuple(slice(1, 1 + length // 2) for length in size)] = True
        cases.append((torch.from_numpy(random.standard_normal((2, *size))), target, mask))
    return network, cases


def means(found):
    return {(row["explainer"], row["metric"]): row["mean"] for row in found.rows}


@pytest.mark.parametrize("depth", [1, 3])
def test_a_volume_of_equal_slices_has_the_values_of_its_slice(depth):
    network, cases = drawn(6, 5)
    volumes = [
        (i[:, None].repeat(1, depth, 1, 1), t, m[None].repeat(depth, 0)) for i, t, m in cases
    ]
    deep = Linear(network.weight[:, :, None].repeat(1, 1, depth, 1, 1))
    one = means(evaluate({"map": network}, cases, BY_PLACES))
    other = means(evaluate({"map": deep}, volumes, BY_PLACES))
    assert one == pytest.approx(other)


def test_a_signal_is_a_picture_with_one_line():
    network, cases = drawn(24)
    lines = [(image[:, None], target, mask[None]) for image, target, mask in cases]
    flat = Linear(network.weight[:, :, None])
    metrics = [*BY_PLACES, "d_k", "entropy", "class_sensitivity", "lerf:pixels=50000"]
    metrics += ["deletion", "rank_accuracy", "insertion:fill=mean", "pointing_game:tolerance=3"]
    one = means(evaluate({"map": network}, cases, metrics))
    assert one == pytest.approx(means(evaluate({"map": flat}, lines, metrics)))


@pytest.mark.parametrize("size", [(20,), (6, 5, 4)])
def test_what_is_defined_for_pictures_alone_says_so(size):
    network, cases = drawn(*size)
    found = evaluate({"map": network}, cases)
    reasons = {one["metric"]: one["reason"] for one in found.skipped}
    axes = f"these have {len(size)} axes"
    for name in ("aopc", "occlusion_agreement"):
        assert reasons[name].startswith("is defined for pictures")
        assert axes in reasons[name]
    for name in ("insertion", "morf_insertion"):
        assert reasons[name].startswith("the fill 'blur' is defined for pictures")
    found = evaluate({"map": network}, cases, ["morf:fill=road"])
    assert axes in found.skipped[0]["reason"]


def test_the_neighborhood_of_a_voxel():
    for size in ((9,), (9, 9), (9, 9, 9)):
        mask = np.zeros(size, dtype=bool)
        mask[(4,) * len(size)] = True
        distances = np.sqrt(((np.indices(size) - 4) ** 2).sum(0))
        assert np.array_equal(grown(mask, 3), distances < 3)


def test_the_box_of_a_mask():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert not box_of(mask).any()
    mask[1, 2, 3] = mask[2, 4, 1] = True
    box = box_of(mask)
    assert box[1:3, 2:5, 1:4].all()
    assert box.sum() == 2 * 3 * 3


def test_baselines_of_volumes():
    network, cases = drawn(6, 5, 4)
    names = ["random", "uniform", "edge", "occlusion"]
    rows = evaluate(baselines(network, names), cases, ["mu", "d_k"]).rows
    assert [row["explainer"] for row in rows][::2] == names
    ramp = torch.arange(5.0)[:, None, None].expand(1, 1, 5, 4, 3)
    # a slope of one, 2 apart, the means with weights 1, 2, 1 in both other directions
    assert torch.equal(edge_map(ramp)[0, 0, 1:-1], torch.full((3, 4, 3), 32.0))


def test_cases_of_another_shape():
    with pytest.raises(InputError, match="or one or three axes behind the channels"):
        Case.of((torch.zeros(5), 0, None), 0)
    with pytest.raises(InputError, match=r"must have shape \[4, 5, 6\], as its image"):
        Case.of((torch.zeros(1, 4, 5, 6), 0, np.zeros((4, 5), bool)), 0)
    network, cases = drawn(6, 5, 4)
    with pytest.raises(InputError, match=r"must return relevance \[N, C, D, H, W\]"):
        evaluate({"map": lambda x, t: (network.logits(x), x[:, 0, 0, 0])}, cases, ["mu"])


@pytest.mark.slow
def test_nodules(tmp_path):
    found = nodules.arrays("test", 8)
    del found["contexts"]
    np.savez(tmp_path / "nodules.npz", **found)
    arguments = ["evaluate", "--model", str(ROOT / "models/nodules_vgg3d.py"), "-m", "rap"]
    arguments += ["--metric", "mu_w", "--metric", "pointing_game", "--metric", "morf:step=2000"]
    arguments += ["--no-plots", "--json", "-o", str(tmp_path / "out"), "--data"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "nodules.npz")])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    values = {(row["explainer"], row["metric"]): row["mean"] for row in rows}
    assert values["uniform", "mu_w"] == pytest.approx(1)
    assert values["rap", "mu_w"] > 3
    assert values["rap", "pointing_game"] > 0.5 > values["random", "pointing_game"]
    (tmp_path / "pictures").mkdir()
    arguments[-2] = str(tmp_path / "other")
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "pictures")])
    assert result.exit_code == 2
    assert "is read as pictures, and the network takes inputs of shape (1, 32, 32, 32)" in (
        result.stderr
    )
    np.savez(tmp_path / "flat.npz", images=found["images"][:, 0], labels=found["labels"])
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "flat.npz")])
    assert result.exit_code == 2
    assert "give [N, 1, 32, 32, 32]" in result.stderr
