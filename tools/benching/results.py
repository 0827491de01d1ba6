"""What a bench found: figures of each contestant, their tables, and two benches compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benching.bound import Bound
from benching.clock import ratio, spread
from benching.contestants import FORWARD, SAME

NOISE = 0.1
"""By how much a ratio may rise before it counts as slower, at least: what two runs of one state
differ by on a shared machine."""

HEADERS = "contestant|median s|noise|/ forward|/ bound|/ zennit|/ captum|peak MiB|map apart".split(
    "|"
)


def base_of(name: str, times: Mapping[str, Sequence[float]]) -> str | None:
    """The forward pass in a contestant's runtime: of torch's two, the faster one."""
    if name in FORWARD or name in FORWARD.values():
        other = FORWARD.get(name, name)
        return other if other in times else None
    bases = [base for base in ("forward", "forward, channels last") if base in times]
    return min(bases, key=lambda base: statistics.median(times[base]), default=None)


def figures(
    name: str,
    times: Mapping[str, Sequence[float]],
    needed: Bound | None,
    apart: Mapping[str, float],
) -> dict[str, Any]:
    """A contestant's times, and the medians of their ratios to the others' in the same round."""
    base = base_of(name, times)
    to_forward = ratio(times[name], times[base]) if base else None
    explains = "forward" not in name

    def against(other: str) -> float | None:
        if other not in times or other == name or not explains:
            return None
        return ratio(times[name], times[other])

    return {
        "seconds": list(times[name]),
        "median": statistics.median(times[name]),
        "noise": spread(times[name]),
        "to_forward": to_forward,
        "to_bound": to_forward / needed.work if to_forward and needed and explains else None,
        "to_zennit": against("zennit"),
        "to_captum": against("captum"),
        "apart": apart.get(name),
        "same_map": apart[name] <= SAME if name in apart else None,
    }


def say(console: Console, result: Mapping[str, Any]) -> None:
    """Print the table of one case, and loudly what is not comparable."""
    needed = result["bound"]
    about = f"{needed['work']:.2f} forward passes" if needed else "none"
    console.print(
        f"{result['model']}, {result['method']}: batch {result['batch']}, threads "
        f"{result['threads']}, {result['device']}; bound: {about}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if index else "left")
    for name, found in result["contestants"].items():
        ratios = (found[f"to_{other}"] for other in ("forward", "bound", "zennit", "captum"))
        table.add_row(
            name,
            f"{found['median']:.3f}",
            f"{found['noise']:.0%}",
            *("" if value is None else f"{value:.3f}" for value in ratios),
            f"{found['peak_mib']:.0f}" if "peak_mib" in found else "",
            "" if found["apart"] is None else f"{found['apart']:.0e}",
        )
    console.print(table)
    for name, found in result["contestants"].items():
        if found["same_map"] is False:
            console.print(
                f"ATTENTION: {name} computes ANOTHER MAP (apart by {found['apart']:.1e}): its time "
                "is that of another method"
            )
    for name, reason in result["left_out"].items():
        console.print(f"{name} left out: {reason}")
    console.print()


def rows(report: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str, float, float]]:
    """What can become slower: the case, what it is, its ratio, and how noisy that is."""
    for result in report["results"]:
        case = tuple(result[key] for key in ("model", "method", "batch", "threads", "device"))
        for name, found in result["contestants"].items():
            if found["to_forward"] is not None and "forward" not in name:
                yield case, f"{name} / forward", found["to_forward"], found["noise"]
    for model, found in report["compile"].items():
        for name, value in found["ratios"].items():
            yield (model,), name, value, found["noise"]
    for name, value in report["start"].items():
        yield (), name, value, 0.0


def compare(old: Mapping[str, Any], new: Mapping[str, Any], noise: float = NOISE) -> list[str]:
    """What became slower, each on a line; ratios are compared, since machines differ.

    A ratio may rise by ``noise``, or by twice the noise of either of its measurements.
    """
    before = {(case, name): (value, rough) for case, name, value, rough in rows(old)}
    slower = []
    for case, name, value, rough in rows(new):
        if (case, name) in before:
            known, roughly = before[case, name]
            allowed = 1 + max(noise, 2 * rough, 2 * roughly)
            if value > known * allowed:
                place = ", ".join(map(str, case))
                slower.append(
                    f"SLOWER: {place}{': ' if place else ''}{name} {known:.2f} -> {value:.2f} "
                    f"({value / known - 1:+.0%}, noise {allowed - 1:.0%})"
                )
    return slower
