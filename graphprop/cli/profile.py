"""What ``graphprop profile`` prints."""

from __future__ import annotations

from pathlib import Path

from graphprop.cli import console
from graphprop.errors import OutputError
from graphprop.profiling import Profile, profile


def run_profile(
    as_json: bool, *, directory: Path, batch: int, backend: str, runs: int, trace: Path | None
) -> None:
    """Profile a compiled directory, and print where the time goes."""
    if trace is not None and (trace.is_dir() or not trace.absolute().parent.is_dir()):
        raise OutputError(f"-o names the file of the trace, and {trace} can't be one")
    with console.progress("load the explainer") as progress:
        found = profile(directory, batch=batch, backend=backend, runs=runs, progress=progress)
    if trace is not None:
        found.save_trace(trace)
    if as_json:
        content = {"directory": directory, "profile": found.as_dict(), "trace": trace}
        console.say_json("profile", content)
    else:
        describe(found)
        if trace is not None:
            console.say(f"\n{trace}: open it in chrome://tracing or ui.perfetto.dev")


def describe(found: Profile) -> None:
    """Print the table, the layers that take longest first."""
    peak = "" if found.peak is None else f"; at most {found.peak / 2**20:.0f} MiB more in memory"
    console.say(
        f"{found.backend}, batch {found.batch}: {milli(found.seconds)} ms (forward "
        f"{milli(found.forward)}, relevance {milli(found.relevance)}), median of {found.runs} "
        f"runs{peak}"
    )
    console.say()
    rows = [
        (
            one.label or "(no layer)",
            one.operator,
            (one.rule or "").partition("(")[0],
            milli(one.forward),
            milli(one.relevance),
            milli(one.seconds),
            f"{100 * one.seconds / found.seconds:.1f}" if found.seconds else "",
        )
        for one in found.layers
    ]
    headers = ("layer", "operator", "rule", "forward ms", "relevance ms", "ms", "%")
    console.say_table(headers, rows)


def milli(seconds: float) -> str:
    """Milliseconds."""
    return f"{1000 * seconds:.3f}"
