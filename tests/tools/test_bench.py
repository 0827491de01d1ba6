"""The bench's bookkeeping: bounds, ratios, what is left out, what became slower."""

import json
import re
from pathlib import Path

import bench
import pytest
import torch
from benching import clock, results, scaling
from benching.bound import OPERATIONS, Bound, NoBound, bound, emitted, operations
from benching.contestants import LeftOut, apart, map_of
from torch import nn

import graphprop
from graphprop import builtin

ROOT = Path(__file__).resolve().parents[2]


def chain(activation):
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), activation, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).eval()


def compiled(method, activation=None, **options):
    return graphprop.compile(
        chain(activation or nn.ReLU()), torch.zeros(1, 2, 8, 8), method, **options
    )


# The bound


def documented():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    section = text[text.index("### What each rule needs") : text.index("### The start")]
    rows = re.findall(r"^\| (`[^|]*) \| (\d) \| (\d) \|", section, flags=re.MULTILINE)
    return {
        name: (int(above), int(both))
        for names, above, both in rows
        for name in re.findall(r"`(\w+)`", names)
    }


def test_the_table_of_the_documentation_is_the_bound():
    assert documented() == dict(OPERATIONS)
    assert set(OPERATIONS) <= set(builtin.RULES)


@pytest.mark.parametrize("method", bench.ALL_METHODS)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU()])
def test_no_explainer_computes_less_than_the_bound(method, activation):
    explainer = compiled(method, activation)
    needed = bound(explainer)
    # zB's two adjoints share the one channel that the flat rule counts as none
    assert emitted(explainer) >= needed.work - 1e-9
    assert needed.work >= 1


def test_the_bound_of_a_chain_by_hand():
    # multiply-accumulates: 4 * 36 * 18, 4 * 16 * 36, 64 * 3; the input has both signs
    sizes = {"0": 2592, "2": 2304, "4": 192}
    needed = bound(compiled("epsilon_plus"))
    assert needed.forward == sum(sizes.values())
    assert needed.layers == {"0": 5, "2": 3, "4": 2}
    work = sum(sizes[label] * count for label, count in needed.layers.items())
    assert needed.work == pytest.approx(work / needed.forward)
    assert bound(compiled("epsilon_plus", nn.LeakyReLU())).layers["2"] == 5


def test_parameters_change_the_bound():
    both = {"alpha": 2.0, "beta": 1.0}
    assert operations("alpha_beta", both, non_negative=True) == 4
    assert operations("alpha_beta", {**both, "beta": 0.0}, non_negative=False) == 4
    assert operations("rap", {"negative": "both"}, non_negative=True) == 3
    assert operations("rap", {"negative": "inhibitory"}, non_negative=False) == 8


def test_what_has_no_bound_says_so():
    with pytest.raises(NoBound, match="a mean over samples"):
        bound(compiled("smoothgrad"))
    with pytest.raises(NoBound, match="no bound for the rule pattern_net"):
        operations("pattern_net", {}, non_negative=True)


# Time


def test_all_take_turns_and_the_first_round_does_not_count():
    calls, now = [], iter(range(100))
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = clock.race(runs, 3, lambda: float(next(now)))
    assert calls == ["a", "b"] * 4
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_ratios_are_of_the_same_round():
    # the machine is twice as slow in the second round, and busy with something else in the third
    assert clock.ratio([2, 4, 9], [1, 2, 3]) == 2
    assert clock.spread([1.0, 1.0, 1.0]) == clock.spread([5.0]) == 0
    assert clock.spread([1.0, 2.0, 3.0]) == 0.5


TIMES = {
    "forward": [2.0, 2.0, 2.0],
    "forward, channels last": [1.0, 1.0, 1.0],
    "torch": [3.0, 3.0, 3.3],
    "onnx forward": [2.0, 2.0, 2.0],
    "onnx": [4.0, 4.0, 4.0],
    "zennit": [6.0, 6.0, 6.6],
}


def figures(**more):
    needed, differences = Bound(2.5, 100, {}), {"onnx": 1e-6, "zennit": 0.5}
    return {name: results.figures(name, TIMES, needed, differences) for name in TIMES}


def test_each_is_compared_with_the_forward_pass_of_its_runtime():
    found = figures()
    assert found["torch"]["to_forward"] == 3.0  # by the faster of both
    assert found["torch"]["to_bound"] == pytest.approx(3.0 / 2.5)
    assert found["onnx"]["to_forward"] == 2.0
    assert found["onnx"]["to_bound"] == pytest.approx(2.0 / 2.5)
    assert found["torch"]["to_zennit"] == pytest.approx(0.5)
    assert found["forward"]["to_bound"] is found["forward"]["to_zennit"] is None
    assert found["onnx"]["same_map"] is True
    assert found["zennit"]["same_map"] is False
    assert found["torch"]["to_captum"] is None


def result():
    case = {"model": "m", "method": "rap", "batch": 1, "threads": 1, "device": "cpu"}
    return {
        **case,
        "bound": {"work": 2.5, "forward": 100, "layers": {}},
        "contestants": figures(),
        "left_out": {"captum": "it can't be imported"},
    }


def test_another_map_is_said_loudly(capsys):
    results.say(bench.console(), result())
    said = capsys.readouterr().out
    assert "ATTENTION: zennit computes ANOTHER MAP (apart by 5.0e-01)" in said
    assert "ATTENTION: onnx" not in said
    assert "captum left out: it can't be imported" in said
    assert "bound: 2.50 forward passes" in said


def test_maps_are_compared_with_the_generated_module():
    one = torch.ones(2, 3)
    runs = {
        "torch": lambda: (None, one),
        "onnx": lambda: (None, (one * 2).numpy()),
        "captum": lambda: one,
        "zennit": lambda: (None, one[:1]),
        "forward": lambda: one,
    }
    assert apart(runs) == {"onnx": 1.0, "captum": 0.0, "zennit": float("inf")}
    assert apart({"onnx": runs["onnx"]}) == {}
    assert map_of("onnx forward", one) is None


# Comparison


def found_report():
    compiles = {"m": {"ratios": {"compile / export": 1.1}, "noise": 0.02, "seconds": {}}}
    start = {"graphprop methods / import torch": 1.2}
    return bench.report({"results": [result()], "compile": compiles, "start": start})


def test_what_became_slower_is_flagged_beyond_the_noise():
    old = json.loads(json.dumps(found_report()))
    assert results.compare(old, found_report()) == []
    new = json.loads(json.dumps(found_report()))
    new["results"][0]["contestants"]["onnx"]["to_forward"] *= 1.5
    new["results"][0]["contestants"]["torch"]["to_forward"] *= 1.05
    new["compile"]["m"]["ratios"]["compile / export"] = 1.3
    new["start"]["graphprop methods / import torch"] = 1.0  # faster
    slower = results.compare(old, new)
    assert [line.partition(": ")[2].partition(" / ")[0] for line in slower] == [
        "m, rap, 1, 1, cpu: onnx",
        "m: compile",
    ]
    assert "2.00 -> 3.00 (+50%, noise 10%)" in slower[0]
    assert results.compare(old, new, noise=0.6) == []
    new["results"][0]["contestants"]["onnx"]["noise"] = 0.3  # measured on a busy machine
    assert len(results.compare(old, new)) == 1


def test_a_case_that_was_not_measured_before_is_not_slower():
    old = {**found_report(), "results": []}
    assert results.compare(old, found_report()) == []


# Scaling


def test_the_line_through_zero():
    series = [{"work": w, "explain": 3.0 * w, "forward": w, "name": str(w)} for w in (1, 2, 4)]
    slope, explained = scaling.fit(series)
    assert slope == pytest.approx(3.0)
    assert explained == pytest.approx(1.0)
    series[2]["explain"] = 48.0  # quadratic
    assert scaling.fit(series)[1] < 0.95


def test_points_and_plot(tmp_path, capsys):
    found = scaling.points(chain(nn.ReLU()), (2, 8, 8), "rap", [1, 2], 1, "cpu")
    series = [vars(point) for _, point in found]
    assert [point["work"] for point in series] == [5088, 10176]
    scaling.plot({"batch": series}, tmp_path / "a.svg", "title")
    scaling.plot({"batch": series}, tmp_path / "b.svg", "title")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    scaling.say_series(bench.console(), {"batch": series})
    assert "explain / forward" in capsys.readouterr().out


# The command


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--contestants", "fastest"], "no contestants: fastest"),
        (["--repeats", "0"], "at least 1"),
        (["--plot", "a.svg"], "give both"),
        (["--compare", "nowhere.json"], "there is no file nowhere.json"),
        *[(["--device", "cuda"], "torch finds no GPU")] * (not torch.cuda.is_available()),
    ],
)
def test_wrong_options_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        bench.parsed(arguments)
    assert text in capsys.readouterr().err


def test_full_is_everything_and_each_dimension_can_be_chosen():
    full = bench.parsed(["--full"])
    assert (full.models, full.threads) == ([*bench.ALL_MODELS], [1, 2])
    assert set(full.methods) <= set(builtin.METHODS)
    chosen = bench.parsed(["--full", "--models", "a", "--methods", "b,c", "--threads", "3"])
    assert (chosen.models, chosen.methods, chosen.threads) == (["a"], ["b", "c"], [3])
    assert bench.parsed([]).repeats >= 7


def test_a_small_bench_from_end_to_end(tmp_path, capsys, monkeypatch):
    def refused(case):
        raise LeftOut("not today")

    monkeypatch.setitem(bench.CONTESTANTS, "zennit", refused)
    file = tmp_path / "bench.json"
    arguments = ["--models", "digits", "--methods", "rap", "--batch", "2", "--repeats", "2"]
    arguments += ["--contestants", "torch,onnx,zennit", "--no-compile", "--no-memory"]
    assert bench.main([*arguments, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    (one,) = found["results"]
    assert one["left_out"] == {"zennit": "not today"}
    assert one["bound"]["work"] > 3
    assert one["contestants"]["onnx"]["same_map"]
    assert bench.main([*arguments, "--compare", str(file), "--noise", "50"]) == 0
    assert "nothing became slower" in capsys.readouterr().out
    for contestant in one["contestants"].values():
        contestant["to_forward"] /= 1000
    file.write_text(json.dumps(found))
    assert bench.main([*arguments, "--compare", str(file)]) == 1
    assert "SLOWER: digits, rap, 2, 1, cpu: torch / forward" in capsys.readouterr().out
