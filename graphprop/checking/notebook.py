"""The report of a check as HTML and as a figure."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from graphprop.pictures.notebook import escaped, table

if TYPE_CHECKING:
    from graphprop.checking.report import BackendResult, Report

LEAST = 1e-17
"""What an error of zero is drawn as, on a scale of powers of ten."""


def report_html(report: Report) -> str:
    """The verdict on each backend, and the report as it is printed."""
    headers = ("backend", "verdict", "relevance off by", "allowed", "logits off by", "allowed")
    rows = [backend_row(result) for result in report.backends]
    return (
        f"<div><p><b>check: {escape(report.status)}</b></p>{table(headers, rows)}"
        f"<details><summary>report</summary><pre>{escape(str(report))}</pre></details></div>"
    )


def backend_row(result: BackendResult) -> tuple[str, ...]:
    """What a table says of a backend."""
    if result.skipped is not None:
        return (result.name, f"not run: {result.skipped}", "", "", "", "")
    verdict = "passed" if result.passed else result.complaint()
    worst = result.worst
    if worst is None:
        return (result.name, verdict, "", "", "", "")
    numbers = (worst.error, worst.allowed, worst.logits_error, worst.logits_allowed)
    return (result.name, verdict, *(f"{number:.1e}" for number in numbers))


def report_figure(report: Report) -> Any:
    """The error of each sample on each backend, beside what is allowed."""
    from matplotlib.figure import Figure

    shown = [result for result in report.backends if result.samples]
    figure = Figure(figsize=(6.5, 1.6 + 0.5 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for place, result in enumerate(shown):
        errors = [drawable(sample.error) for sample in result.samples]
        allowed = [drawable(sample.allowed) for sample in result.samples]
        spread = [place + 0.3 * (i / max(1, len(errors) - 1) - 0.5) for i in range(len(errors))]
        one = place == 0
        axes.scatter(errors, spread, s=14, color="C0", label="error" if one else None)
        axes.scatter(
            allowed, spread, s=30, color="C3", marker="|", label="allowed" if one else None
        )
    labels = [escaped(f"{result.name}: {verdict_of(result)}") for result in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set(xscale="log", xlabel="relative error of the relevance, a dot for each sample")
    axes.set_title(f"check: {report.status}", fontsize=9)
    if shown:
        figure.legend(fontsize=7, loc="outside right upper")
    return figure


def verdict_of(result: BackendResult) -> str:
    """Passed or failed."""
    return "passed" if result.passed else "failed"


def drawable(value: float) -> float:
    """An error on a scale of powers of ten; what is no number stands at its end."""
    return max(value, LEAST) if math.isfinite(value) else 1.0
