"""The evidence: how claims are judged, and a small version of all of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evidence import plan as plans
from evidence.claims import (
    CLAIMS,
    FAILED,
    HELD,
    NOISE,
    Finding,
    above_all,
    alike,
    better,
    level,
    methods_meet,
    not_better,
    overall,
    totals_hold,
)
from evidence.recommend import PURPOSES
from evidence.results import Results, ranks

from graphprop import builtin
from graphprop.evaluation import find_metric

ROOT = Path(__file__).parent.parent.parent


def results_of(values, seeds=1, metric="mu_w", which="maps", **more):
    """Results on one network: explainer to a function of (random numbers, seed)."""
    found = Results()
    for seed in range(seeds):
        rows = {
            name: {metric: [float(v) for v in make(np.random.default_rng([seed, 7]), seed)]}
            for name, make in values.items()
        }
        count = len(next(iter(rows.values()))[metric])
        facts = [[f"single/{i}", 0, 0.1] for i in range(count)]
        part = {"values": rows, "facts": facts, "curves": {}, "reasons": []}
        empty = {"values": {}, "facts": [], "curves": {}, "reasons": []}
        sets = {"maps": empty, "few": empty, which: part}
        found.add({"network": "shapes_vgg", "seed": seed, "sets": sets, **more})
    return found


def base(random, seed):
    return random.normal(10, 3, 40)


def test_a_difference_that_all_cases_and_seeds_have_held():
    found = results_of({"a": lambda r, s: base(r, s) + 1, "b": base}, seeds=3)
    assert better(found, "shapes_vgg", metric="mu_w", pairs=[("a", "b")]).verdict == HELD
    assert better(found, "shapes_vgg", metric="mu_w", pairs=[("b", "a")]).verdict == FAILED


def test_a_metric_that_is_better_low_turns_the_difference_around():
    found = results_of({"a": lambda r, s: base(r, s) + 1, "b": base}, metric="d_k")
    assert better(found, "shapes_vgg", metric="d_k", pairs=[("a", "b")]).verdict == FAILED


def test_one_seed_of_another_sign_is_noise():
    def mostly(random, seed):
        return base(random, seed) + (3 if seed else -0.1)

    found = results_of({"a": mostly, "b": base}, seeds=3)
    interval = found.difference("shapes_vgg", "a", "b", "mu_w")
    assert interval.low > 0
    assert min(interval.seeds) < 0
    assert better(found, "shapes_vgg", metric="mu_w", pairs=[("a", "b")]).verdict == NOISE


def test_equal_methods_are_noise_and_not_better():
    found = results_of({"a": base, "b": base})
    assert better(found, "shapes_vgg", metric="mu_w", pairs=[("a", "b")]).verdict == NOISE
    worse = results_of({"a": lambda r, s: base(r, s) - 1, "b": base})
    pairs = [("a", "b")]
    assert not_better(worse, "shapes_vgg", metric="mu_w", pairs=pairs).verdict == HELD
    assert not_better(found, "shapes_vgg", metric="mu_w", pairs=pairs).verdict == NOISE
    better_one = results_of({"a": lambda r, s: base(r, s) + 1, "b": base})
    assert not_better(better_one, "shapes_vgg", metric="mu_w", pairs=pairs).verdict == FAILED


def test_a_claim_about_several_needs_all_of_them():
    worse, same = lambda r, s: base(r, s) - 1, base
    found = results_of(
        {"rap": base, "x": worse, "y": worse, "z": same, "w": lambda r, s: 99 + base(r, s)}
    )
    judge = above_all("rap", ("x", "y"), "mu_w")
    assert judge(found, "shapes_vgg").verdict == HELD
    unclear = above_all("rap", ("x", "z"), "mu_w")(found, "shapes_vgg")
    assert unclear.verdict == NOISE
    assert "unclear: rap / z" in unclear.detail
    against = above_all("rap", ("x", "w"), "mu_w")(found, "shapes_vgg")
    assert against.verdict == FAILED
    assert "against: rap / w" in against.detail


def test_a_method_that_was_not_compiled_is_left_out_and_none_is_nothing():
    found = results_of({"rap": base, "x": lambda r, s: base(r, s) - 1})
    judge = above_all("rap", ("x", "missing"), "mu_w")
    assert judge(found, "shapes_vgg").verdict == HELD
    assert above_all("rap", ("missing",), "mu_w")(found, "shapes_vgg") is None


def test_near_is_judged_by_the_whole_interval():
    near = results_of({"a": lambda r, s: base(r, s) + 0.2, "b": base})
    assert alike("a", "b", "mu_w", 0.1)(near, "shapes_vgg").verdict == HELD
    far = results_of({"a": lambda r, s: base(r, s) + 5, "b": base})
    assert alike("a", "b", "mu_w", 0.1)(far, "shapes_vgg").verdict == FAILED
    wide = results_of({"a": lambda r, s: base(r, s) + r.normal(0, 9, 40), "b": base})
    assert alike("a", "b", "mu_w", 0.1)(wide, "shapes_vgg").verdict == NOISE


def test_a_level_is_judged_by_the_whole_interval():
    found = results_of({"rap": lambda r, s: np.full(20, 0.95)}, metric="lerf", which="few")
    assert level("rap", "lerf", 0.9, above=True)(found, "shapes_vgg").verdict == HELD
    assert level("rap", "lerf", 0.99, above=True)(found, "shapes_vgg").verdict == FAILED


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((HELD, HELD), HELD),
        ((HELD, HELD, NOISE), HELD),
        ((HELD, NOISE), NOISE),
        ((HELD, HELD, HELD, FAILED), NOISE),
        ((HELD, FAILED, NOISE), FAILED),
        ((), NOISE),
    ],
)
def test_the_verdict_over_networks(verdicts, expected):
    assert overall([Finding(verdict, "") for verdict in verdicts]) == expected


def test_hedged_totals_are_compared_with_gamma():
    right = results_of({"a": base}, totals={"1": [-1.0] * 20, "1.5": [-0.5] * 20})
    assert totals_hold(right, "shapes_vgg").verdict == HELD
    wrong = results_of({"a": base}, totals={"1": [-1.0] * 20, "1.5": [-1.0] * 20})
    assert totals_hold(wrong, "shapes_vgg").verdict == FAILED


def test_methods_meet_where_their_spread_falls_with_the_size_of_the_box():
    def result(spread_large, spread_small):
        fractions = [0.1] * 10 + [0.6] * 10
        spread = [spread_small] * 10 + [spread_large] * 10
        rows = {"lrp_z": {"mu": [0.2] * 20}, "lrp_alpha1_beta0": {"mu": [0.2 + s for s in spread]}}
        facts = [[f"single/{i}", 0, f] for i, f in enumerate(fractions)]
        part = {"values": rows, "facts": facts, "curves": {}, "reasons": []}
        found = Results()
        found.add({"network": "shapes_vgg", "seed": 0, "sets": {"boxes": part}})
        return found

    # only two of the methods are there: those without values leave the claim open
    assert methods_meet(result(0.01, 0.2), "shapes_vgg").verdict == HELD
    assert methods_meet(result(0.2, 0.01), "shapes_vgg").verdict == FAILED


def test_ranks_run_from_0_to_1_and_ties_share_theirs():
    values = {"a": lambda r, s: [3.0], "b": lambda r, s: [1.0], "c": lambda r, s: [1.0]}
    assert ranks(results_of(values), ["shapes_vgg"], "mu_w", "abc") == {
        "a": 0,
        "b": 0.75,
        "c": 0.75,
    }
    assert ranks(results_of(values, metric="d_k"), ["shapes_vgg"], "d_k", "abc")["a"] == 1


def test_every_metric_and_method_that_is_named_exists():
    specs = [*plans.MAPS, *plans.PERTURBATION, *plans.SENSITIVITY, *plans.SOFTMAX]
    names = {find_metric(spec).name for spec in specs}
    assert len(names) == 28
    labels = {plans.base(find_metric(spec).label) for spec in specs}
    assert {metric for purpose in PURPOSES for metric in purpose.metrics} <= labels
    known = {*builtin.METHODS, *(variant.name for variant in plans.VARIANTS)}
    for claim in CLAIMS:
        pairs = getattr(claim.judge, "keywords", {}).get("pairs", [])
        assert {name for pair in pairs for name in pair} <= known, claim.key
        metric = getattr(claim.judge, "keywords", {}).get("metric")
        assert metric is None or metric in labels, claim.key


METHODS = ("lrp_z", "input_x_gradient", "lrp_alpha1_beta0", "lrp_cmp_alpha2_flat", "rap", "hedge")


@pytest.mark.slow
def test_a_small_version_of_all_of_it(tmp_path):
    command = [
        *(sys.executable, "tools/evidence", "--small", "--seeds", "0", "--jobs", "1"),
        *("--networks", "shapes_vgg", "--methods", *METHODS, "-o", str(tmp_path / "out")),
        *("--docs", str(tmp_path / "docs"), "--recommended", str(tmp_path / "recommended.json")),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "shapes_vgg, seed 0" in done.stdout
    page = (tmp_path / "docs" / "evidence.md").read_text()
    assert "LRP-z gives the maps of input x gradient | **held** | held |" in page
    network = (tmp_path / "docs" / "evidence" / "shapes_vgg.md").read_text()
    for method in METHODS:
        assert f"| `{method}` |" in network
    content = json.loads((tmp_path / "recommended.json").read_text())
    assert {m["method"] for m in content["purposes"]["localize"]["methods"]} <= set(METHODS)
    result = json.loads((tmp_path / "out" / "results" / "shapes_vgg-0.json").read_text())
    assert not result["refused"]
    values = result["sets"]["maps"]["values"]
    assert np.allclose(values["lrp_z"]["mu"], values["input_x_gradient"]["mu"], rtol=1e-3)
    assert values["uniform"]["mu_w"] == pytest.approx([1.0] * len(values["uniform"]["mu_w"]))
    # nothing is measured twice
    before = (tmp_path / "out" / "results" / "shapes_vgg-0.json").stat().st_mtime_ns
    subprocess.run([*command, "--no-figures"], cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / "out" / "results" / "shapes_vgg-0.json").stat().st_mtime_ns == before


def test_the_recommendations_of_the_package_are_those_of_the_page():
    content = json.loads((ROOT / "graphprop" / "recommended.json").read_text())
    page = (ROOT / "docs" / "evidence.md").read_text()
    for purpose in PURPOSES:
        entry = content["purposes"][purpose.key]
        assert entry["title"] == purpose.title
        assert purpose.title in page
        for place, one in enumerate(entry["methods"], 1):
            assert one["method"] in builtin.METHODS
            assert f"| {place} | `{one['method']}` | {one['rank']:.2f} |" in page
