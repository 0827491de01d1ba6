"""Evaluation from end to end: rows, intervals, seeds, batches, and resuming."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import graphprop
from graphprop.errors import InputError, MethodError, OutputError
from graphprop.evaluation import METRICS, Case, baselines, evaluate, find_metric, metric
from graphprop.evaluation.baselines import edge_map
from graphprop.evaluation.occlusion import occlusion
from graphprop.evaluation.results import bootstrap
from graphprop.evaluation.runner import PARTIAL
from support.evaluation import Fixed, Linear, channel_network, scenes

NAMES = set(
    "pointing_game mu mu_w mu_25 mu_50 outside_inside_all outside_inside_pos "
    "outside_inside_minmax pixel_accuracy miou mean_average_precision rank_accuracy lerf morf aopc "
    "insertion deletion morf_insertion remove_positive remove_negative occlusion_agreement "
    "class_sensitivity positive_ratio d_k entropy gini max_sensitivity randomisation".split()
)
FEW = ["pointing_game", "mu_w", "morf", "class_sensitivity", "max_sensitivity:draws=2"]


def test_public_name():
    assert graphprop.evaluate is evaluate
    assert "evaluate" in graphprop.__all__


def test_all_metrics_are_there_and_documented():
    assert set(METRICS) == NAMES
    for found in METRICS.values():
        assert found.summary.endswith(".")
        assert "References\n" in (found.function.__doc__ or "")


def test_all_metrics_are_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    for found in METRICS.values():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        (row,) = (row for row in rows if f"`{found.name}`" in row.split("|")[1])
        assert ("higher" if found.higher_is_better else "lower") in row.split("|")[3], row


def test_rows():
    network = channel_network()
    found = evaluate({"gxi": network, **baselines(network)}, scenes())
    assert found.explainers == ["gxi", "random", "uniform", "edge"]
    for row in found.rows:
        assert list(row) == "explainer metric mean low high n higher_is_better".split()
        assert row["n"] == 6
        assert row["low"] <= row["mean"] + 1e-12
        assert row["mean"] <= row["high"] + 1e-12
    assert json.loads(json.dumps(found.as_dict()))["rows"] == found.rows
    assert found.as_dict()["version"] == 1
    # whatever is there to be found, input times weight finds it
    for name in ("pointing_game", "mu_w", "rank_accuracy", "miou", "morf", "deletion"):
        row = found.row("gxi", name)
        other = found.row("random", name)
        better = row["mean"] > other["mean"]
        assert better if row["higher_is_better"] else row["mean"] < other["mean"], name
    assert found.best("mu_w") == {"gxi"}
    pairs = {(row["explainer"], row["metric"]) for row in found.rows}
    reasons = {(one["explainer"], one["metric"]): one["reason"] for one in found.skipped}
    assert pairs | set(reasons) == {(e, m) for e in found.explainers for m in NAMES}
    assert "no load_state_dict" in reasons["random", "randomisation"]


def test_means_are_those_of_the_cases():
    network = channel_network()
    found = evaluate({"gxi": network}, scenes(), ["mu", "entropy"])
    for name in ("mu", "entropy"):
        values = [case["value"] for case in found.cases if case["metric"] == name]
        row = found.row("gxi", name)
        assert row["mean"] == pytest.approx(np.mean(values))
        assert (row["low"], row["high"]) == bootstrap(values, 0)
    fractions = {case["fraction"] for case in found.cases}
    assert fractions == {81 / 1024}


def test_interval():
    values = np.random.default_rng(0).standard_normal(200)
    low, high = bootstrap(values, 0)
    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap(values, 0) == (low, high)
    assert bootstrap(values, 1) != (low, high)
    assert bootstrap([3.0], 0) == (3, 3)
    assert bootstrap([2.0] * 5, 0) == (2, 2)


def test_interval_over_pictures():
    """Cases of one picture are drawn together: twenty copies of a value say no more than one."""
    values = np.random.default_rng(0).standard_normal(30)
    names = [f"{number}.png" for number in range(30)]
    once = bootstrap(values, 0, names)
    assert once == bootstrap(values, 0)
    copied = bootstrap(np.repeat(values, 20), 0, [name for name in names for _ in range(20)])
    assert copied == pytest.approx(once)
    apart = bootstrap(np.repeat(values, 20), 0)
    assert apart[1] - apart[0] < (once[1] - once[0]) / 3
    # of unequal numbers, the mean stays that of the cases
    low, high = bootstrap([1.0, 1.0, 1.0, 5.0], 0, ["a", "a", "a", "b"])
    assert (low, high) == (1, 5)


def test_seed_decides_everything_random():
    network = channel_network()
    explainers = {"gxi": network, **baselines(network)}
    metrics = ["morf:fill=noise", "max_sensitivity", "randomisation", "aopc"]
    first, again, other = (
        evaluate(explainers, scenes(), metrics, seed=seed).rows for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def everything(size):
    network = channel_network(size=20)
    return evaluate({"gxi": network, **baselines(network)}, scenes(5, size=20), batch_size=size)


@pytest.fixture(scope="module")
def in_batches_of_three():
    return everything(3)


@pytest.mark.parametrize("size", [1, 100])
def test_batches_change_nothing(size, in_batches_of_three):
    found, expected = everything(size), in_batches_of_three
    assert [r["metric"] for r in found.rows] == [r["metric"] for r in expected.rows]
    for row, other in zip(found.rows, expected.rows, strict=True):
        # sums over a batch are rounded in another order
        assert row["mean"] == pytest.approx(other["mean"], rel=1e-4, abs=1e-6), row
    assert found.skipped == expected.skipped


def test_explainers_do_not_see_more_than_a_batch():
    sizes = []

    def watched(x, target):
        sizes.append(len(x))
        assert target.shape == (len(x),)
        assert target.dtype == torch.int64
        return network(x, target)

    network = channel_network()
    evaluate({"watched": watched}, scenes(7), batch_size=4)
    assert max(sizes) == 4


def test_data_is_not_held():
    """Cases are read as they are needed, and given up."""
    alive = []

    def cases():
        for number, (image, target, mask) in enumerate(scenes(8)):
            alive.append(number)
            yield image, target, mask

    seen = []
    network = channel_network()

    def watched(x, target):
        seen.append(len(alive))
        return network(x, target)

    evaluate({"watched": watched}, cases(), ["mu"], batch_size=2)
    assert seen[0] == 2
    assert len(alive) == 8


def test_samples_of_a_sequence_are_a_choice_and_of_an_iterator_the_first():
    network = channel_network()
    data = scenes(30)
    cases = {c["case"] for c in evaluate({"a": network}, iter(data), ["mu"], samples=5).cases}
    assert cases == set(range(5))
    one, two = (
        {c["case"] for c in evaluate({"a": network}, data, ["mu"], samples=5, seed=seed).cases}
        for seed in (0, 1)
    )
    assert len(one) == len(two) == 5
    assert one != two


def test_pictures_without_labels_are_explained_for_the_prediction():
    network = channel_network()
    given = [(image, -1, mask) for image, _, mask in scenes()]
    found = evaluate({"gxi": network}, given, FEW)
    assert found.rows == evaluate({"gxi": network}, scenes(), FEW).rows


def test_masks_that_are_missing():
    network = channel_network()
    found = evaluate({"gxi": network}, [(i, t, None) for i, t, _ in scenes()], ["mu", "gini"])
    assert found.metrics == ["gini"]
    (skipped,) = found.skipped
    assert skipped["reason"] == "needs masks or boxes, and the data has none"
    assert (skipped["metric"], skipped["n"]) == ("mu", 6)


def test_maps_of_a_layer_are_brought_to_the_size_of_the_picture():
    network = channel_network()

    def coarse(x, target):
        logits, relevance = network(x, target)
        return logits, torch.nn.functional.avg_pool2d(relevance, 4)

    found = evaluate({"coarse": coarse}, scenes(), ["pointing_game", "mu_w"])
    assert found.row("coarse", "pointing_game")["mean"] > 0.8
    assert found.row("coarse", "mu_w")["mean"] > 5


def test_pictures_of_several_sizes():
    data = [*scenes(2, size=32), *scenes(2, size=16)]

    def anything(x, target):
        return x.mean((2, 3)), x

    found = evaluate({"x": anything}, data, ["mu", "deletion"])
    assert found.row("x", "mu")["n"] == 4


def test_nan_map_is_never_better_than_a_random_one():
    network = channel_network()
    bad = Fixed(np.full((32, 32), np.nan), network.weight)
    found = evaluate({"nan": bad, **baselines(network, ["random"])}, scenes())
    for row in found.rows:
        if row["explainer"] == "nan" and row["metric"] != "randomisation":
            assert row["n"] == 6
            other = found.row("random", row["metric"])["mean"]
            assert row["mean"] <= other if row["higher_is_better"] else row["mean"] >= other, row


def test_baselines_know_nothing_of_the_network():
    one, two = channel_network(), Linear(-channel_network().weight)
    x = torch.rand(3, 3, 32, 32)
    for name in ("random", "uniform", "edge"):
        maps = [baselines(n)[name](x, torch.tensor([0, 1, 2]))[1] for n in (one, two)]
        assert torch.equal(*maps)
        alone = baselines(one)[name](x[1:2], torch.tensor([2]))[1]
        assert torch.equal(alone, maps[0][1:2])
    assert not torch.equal(*(baselines(one, seed=s)["random"](x, None)[1] for s in (0, 1)))
    noise = baselines(one)["random"](x, None)[1]
    assert not torch.equal(noise[0], noise[1])  # other pictures, other noise
    logits = baselines(one)["edge"](x, torch.tensor([0, 1, 2]))[0]
    torch.testing.assert_close(logits, one.logits(x))


def test_edge_is_sobels():
    x = torch.zeros(1, 2, 5, 6)
    x[..., 3:] = 4.0  # a step of 4 in both channels
    edges = edge_map(x)[0, 0]
    expected = torch.zeros(5, 6)
    expected[:, 2:4] = 16.0  # (1 + 2 + 1) * 4
    assert torch.equal(edges, expected)


# Resuming.


def test_what_was_done_is_not_done_again(tmp_path):
    expected = evaluate({"gxi": channel_network()}, scenes(8), FEW, batch_size=2)
    network = channel_network()

    class Stopped(Exception):
        pass

    def until_stopped(x, target):
        if network.calls > 160:
            raise Stopped
        return network(x, target)

    with pytest.raises(Stopped):
        evaluate({"gxi": until_stopped}, scenes(8), FEW, batch_size=2, resume=tmp_path)
    lines = (tmp_path / PARTIAL).read_text().splitlines(keepends=True)
    assert 2 < len(lines) < 9
    # stopped in the middle of a line
    (tmp_path / PARTIAL).write_text("".join(lines) + '{"case": 7, "na')
    fresh = channel_network()
    found = evaluate({"gxi": fresh}, scenes(8), FEW, batch_size=2, resume=tmp_path)
    assert found.rows == expected.rows
    assert list(found.cases) == list(expected.cases)
    assert found.curves == expected.curves
    done = channel_network()
    again = evaluate({"gxi": done}, scenes(8), FEW, batch_size=2, resume=tmp_path)
    assert done.calls == 0
    assert again.rows == expected.rows


def test_results_of_another_evaluation_are_refused(tmp_path):
    network = channel_network()
    evaluate({"gxi": network}, scenes(2), ["mu"], resume=tmp_path)
    with pytest.raises(OutputError, match=r"of another evaluation \(seed differ\)"):
        evaluate({"gxi": network}, scenes(2), ["mu"], resume=tmp_path, seed=1)
    with pytest.raises(OutputError, match="metrics differ"):
        evaluate({"gxi": network}, scenes(2), ["mu_w"], resume=tmp_path)
    (tmp_path / PARTIAL).write_text("what\n")
    with pytest.raises(OutputError, match="can't be read: remove it"):
        evaluate({"gxi": network}, scenes(2), ["mu"], resume=tmp_path)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"explainers": {}}, InputError, "with one at least"),
        ({"explainers": [1]}, InputError, "explainers must be a dict"),
        ({"explainers": {"a": 1}}, InputError, "the explainer 'a' can't be called"),
        ({"data": []}, InputError, "the data has no cases"),
        ({"data": [1]}, InputError, "case 0 of the data must be"),
        ({"data": [(torch.zeros(2), 0, None)]}, InputError, r"must have shape \[C, H, W\]"),
        (
            {"data": [(torch.zeros(1, 2, 2, dtype=torch.uint8), 0, None)]},
            InputError,
            "of torch.uint8: give it as the network takes it",
        ),
        (
            {"data": [(torch.zeros(3, 32, 32), 0, np.zeros((4, 4)))]},
            InputError,
            r"the mask of case 0 must have shape \[32, 32\]",
        ),
        ({"data": [(torch.zeros(3, 32, 32), 3, None)]}, InputError, "has the class 3"),
        ({"metrics": ["mu", "point_game"]}, MethodError, "did you mean 'pointing_game'?"),
        ({"metrics": ["mu:size=3"]}, MethodError, "'mu' has no parameter 'size': it has none"),
        ({"metrics": ["d_k:n=3"]}, MethodError, "'d_k' has no parameter 'n'"),
        ({"metrics": ["d_k:k"]}, MethodError, "write a metric as NAME:KEY=VALUE"),
        ({"metrics": ["d_k:k=many"]}, MethodError, "must be like 1000, not 'many'"),
        ({"metrics": ["mu", "mu"]}, InputError, "named twice"),
        ({"metrics": "mu"}, InputError, "must be a list of names, not the text 'mu'"),
        ({"samples": 0}, InputError, "samples must be at least 1, not 0"),
        ({"seed": -1}, InputError, "seed must be at least 0, not -1"),
    ],
)
def test_refused(arguments, error, message):
    given = {"explainers": {"gxi": channel_network()}, "data": scenes(2), "metrics": ["mu"]}
    given |= arguments
    with pytest.raises(error, match=message):
        evaluate(given.pop("explainers"), given.pop("data"), given.pop("metrics"), **given)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(1), r"must return \(logits, relevance\)"),
        ((torch.zeros(3), torch.zeros(1, 1, 32, 32)), r"must return logits \[N, classes\]"),
        ((torch.zeros(1, 3), torch.zeros(1, 9)), r"must return relevance \[N, C, H, W\]"),
    ],
)
def test_explainers_that_return_something_else(result, message):
    with pytest.raises(InputError, match=message):
        evaluate({"odd": lambda x, target: result}, scenes(1), ["mu"])


def test_a_metric_of_ones_own():
    @metric(higher_is_better=False, missing=9.0)
    def spread(sample, *, power: float = 1.0):
        """How far the map's values lie apart."""
        return float(np.ptp(sample.map) ** power)

    try:
        found = evaluate({"gxi": channel_network()}, scenes(2), ["spread", "spread:power=2"])
        assert found.metrics == ["spread", "spread(power=2)"]
        assert find_metric(("spread", {"power": 2.0})).parameters == {"power": 2.0}
    finally:
        del METRICS["spread"]
    with pytest.raises(MethodError, match="must take one sample and keyword-only parameters"):

        @metric(higher_is_better=True, missing=0.0)
        def wrong(sample, other):
            """Takes too much."""

    assert "wrong" not in METRICS


def test_the_samples_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    samples = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(samples) == 2
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 18**2, 3)
    ).eval()
    example_input = torch.zeros(1, 3, 20, 20)
    namespace = {"model": model, "example_input": example_input, "data": scenes(2, size=20)}
    try:
        for number, sample in enumerate(samples):
            exec(compile(sample, f"docs/evaluation.md, sample {number}", "exec"), namespace)
        found = namespace["found"]
        assert found.explainers == ["rap", "random", "uniform", "edge"]
        assert found.metrics == ["mu_w", "pointing_game(tolerance=15)"]
        own = evaluate({"gxi": channel_network(20)}, scenes(3, size=20), ["peak_share:share=0.05"])
        assert own.row("gxi", "peak_share(share=0.05)")["mean"] == 1
    finally:
        METRICS.pop("peak_share", None)


def test_files(tmp_path):
    network = channel_network()
    found = evaluate({"gxi": network}, scenes(), ["mu", "morf"])
    names = [path.name for path in found.write(tmp_path / "out")]
    assert names == ["evaluation.json", "evaluation.csv", "cases.csv"]
    content = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert content["rows"] == found.rows
    assert content["curves"][0]["metric"] == "morf"
    header, *lines = (tmp_path / "out/evaluation.csv").read_text().splitlines()
    assert header == "explainer,metric,mean,low,high,n,higher_is_better"
    assert lines[0].startswith("gxi,mu,")
    assert len((tmp_path / "out/cases.csv").read_text().splitlines()) == 1 + 12


def test_cases_unpack_as_triples():
    case = Case(torch.zeros(1, 2, 2), 1, None, frozenset({0, 1}), "a.png")
    image, target, mask = case
    assert (image.shape, target, mask) == ((1, 2, 2), 1, None)


def test_occlusion_of_object_and_context():
    network = channel_network()
    found = occlusion(network, scenes(), fill="zero")
    for case, (image, target, mask) in zip(found.cases, scenes(), strict=True):
        assert case["object"] == pytest.approx(float(image[target][mask].sum()), rel=1e-5)
        assert case["context"] == pytest.approx(float(image[target][~mask].sum()), rel=1e-4)
    assert found.summary["n"] == 6
    assert found.summary["object_mean"] > found.summary["context_mean"]
    assert len(found.as_csv().splitlines()) == 7
    with pytest.raises(InputError, match="needs masks or boxes"):
        occlusion(network, [(i, t, None) for i, t, _ in scenes()])
