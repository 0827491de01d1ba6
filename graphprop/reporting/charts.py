"""The charts of a report. Each has a table beside it in the page that says the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from graphprop.artifact.schema import Json
from graphprop.drawing.text import fitted
from graphprop.reporting.contents import KINDS, Point, Station, Way
from graphprop.reporting.inline import COLORS, LETTERS, as_svg, drawing

LOWEST = 1e-4
"""Where the scale of errors begins, in units of what is allowed: smaller ones lie at its end."""

MOST_ROWS = 44
"""Layers with a row of their own in the picture of the ledger: more could not be read."""

ROOM = 108
"""How wide the names of layers are at most, in units of the chart."""

SERIES = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)))
"""Colors, and with them dashes and marks: nobody has to tell colors apart."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def check_chart(backends: Sequence[Json], salt: str) -> Markup | None:
    """The errors of each backend in units of what is allowed; None where nothing was compared."""
    ran = [one for one in backends if one.get("samples")]
    if not ran:
        return None
    with drawing(0.75 + 0.34 * len(ran), salt) as (figure, axes):
        axes.set_xscale("log")
        axes.axvline(1, color=COLORS["c3"], linewidth=1.4)
        most = 1.0
        for row, backend in enumerate(ran):
            for kind, limit, mark, color, shift in (
                ("error", "allowed", "o", "c0", -0.14),
                ("logits_error", "logits_allowed", "s", "c1", 0.14),
            ):
                shares = [share(one.get(kind), one.get(limit)) for one in backend["samples"]]
                most = max([most, *shares])
                places = [row + shift] * len(shares)
                name = ("map", "logits")[kind != "error"] if not row else None
                axes.plot(
                    shares, places, mark, color=COLORS[color], markersize=4, alpha=0.75, label=name
                )
        axes.set_xlim(LOWEST / 1.6, most * 4)
        axes.set_ylim(len(ran) - 0.5, -0.5)
        axes.set_yticks(range(len(ran)), [short(one.get("name", "")) for one in ran])
        axes.tick_params(axis="y", length=0)
        plain_powers(axes.xaxis)
        axes.grid(axis="x")
        axes.set_xlabel("error, 1 being the limit (below 1e-04: at the edge)")
        legend(figure, axes, 2)
        worst = "; ".join(f"{one.get('name', '')}: {worst_of(one)}" for one in ran)
        return as_svg(figure, "Errors of each backend", f"Relative to what is allowed: {worst}")


def share(error: float | None, allowed: float | None) -> float:
    """An error in units of what is allowed, within the chart; unknown ones lie beyond it."""
    if error is None or allowed is None:
        return 10.0
    return min(max(error / allowed if allowed else (10.0 if error else 0.0), LOWEST), 1e3)


def worst_of(backend: Json) -> str:
    """The largest share of a backend, in words."""
    shares = [share(one.get("error"), one.get("allowed")) for one in backend["samples"]]
    return f"at most {max(shares):.2g} of what is allowed for the map"


def stages_chart(points: Sequence[Point], salt: str) -> Markup:
    """The error of each backend from stage to stage."""
    names = list(dict.fromkeys(name for point in points for name in point.errors))
    with drawing(2.5, salt) as (figure, axes):
        axes.set_yscale("log")
        floor = smallest(points)
        places = list(range(len(points)))
        allowed = [point.allowed or math.nan for point in points]
        axes.step(places, allowed, where="mid", color=COLORS["c3"], linewidth=1.2, label="allowed")
        for index, name in enumerate(names):
            errors = [point.errors.get(name) for point in points]
            axes.plot(places, [at_least(e, floor) for e in errors],
                      color=COLORS[SERIES[index % 3]], linestyle=DASHES[index % len(DASHES)],
                      linewidth=1.3, label=short(name))  # fmt: skip
        float32 = [at_least(point.float32, floor) for point in points]
        axes.plot(places, float32, color=COLORS["dim"], linewidth=0.7, label="float32 of torch")
        turn = sum(point.kind == "result" for point in points) - 0.5
        axes.axvline(turn, color=COLORS["dim"], linewidth=0.8)
        axes.set_xlim(-0.5, len(points) - 0.5)
        axes.set_xticks(
            [turn / 2, (turn + len(points)) / 2], ["results, forward", "relevance, back"]
        )
        axes.tick_params(axis="x", length=0)
        plain_powers(axes.yaxis)
        axes.grid(axis="y")
        axes.set_ylabel("relative error")
        legend(figure, axes, 3)
        return as_svg(
            figure,
            "Errors from stage to stage",
            "First the results of all layers from the input to the logits, then their relevance "
            "from the logits back to the input. The numbers are in the table below.",
        )


def smallest(points: Sequence[Point]) -> float:
    """Half of the smallest error above zero: where errors of zero are drawn."""
    errors = [e for p in points for e in (*p.errors.values(), p.float32) if e]
    return min(errors, default=1e-9) / 2


def at_least(error: float | None, floor: float) -> float:
    """An error as it is drawn on a scale without zero."""
    return math.nan if error is None else max(error, floor)


# The ledger.


def ledger_chart(way: Way, salt: str) -> Markup | None:
    """How much relevance is left behind each layer, and what took or added it."""
    if not way.stations:
        return None
    unit = way.start or 1.0
    rows = list(shortened(way))
    kinds = [kind for kind in KINDS if kind in way.totals] if way.whole else []
    with drawing(0.95 + 0.185 * len(rows) + 0.1 * len(kinds), salt) as (figure, axes):
        named: dict[str, Any] = {}
        for place, (_, station) in enumerate(rows):
            draw_station(axes, place, station, unit, kinds, named)
        axes.axvline(
            1 if way.start else 0, color=COLORS["dim"], linewidth=0.8, linestyle=(0, (3, 2))
        )
        axes.axvline(0, color=COLORS["dim"], linewidth=0.8)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", length=0, labelsize=LETTERS - 1)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("relevance, 1 being the start" if way.start else "relevance")
        axes.grid(axis="x")
        figure.legend(
            named.values(), named, loc="outside upper left", ncols=2, fontsize=LETTERS - 0.5
        )
        return as_svg(figure, "The way of relevance", described(way))


def draw_station(
    axes: Any,
    place: int,
    station: Station,
    unit: float,
    kinds: Sequence[str],
    named: dict[str, Any],
) -> None:
    """Draw one row: what is left, what was taken beside it, what was added within it."""
    if station.left is not None:
        left = station.left / unit
        named["left on all ways"] = axes.barh(place, left, 0.62, color=COLORS["c0"], alpha=0.55)
        beyond, within = left, left
        for kind in kinds:
            part = station.lost.get(kind, 0.0) / unit
            color = COLORS[SERIES[1 + list(KINDS).index(kind)]]
            if part > 0:
                named[f"taken by {KINDS[kind]}"] = axes.barh(
                    place, part, 0.62, left=beyond, color=color
                )
                beyond += part
            elif part < 0:
                named[f"added by {KINDS[kind]}"] = axes.barh(
                    place, -part, 0.62, left=within + part, facecolor="none", edgecolor=color,
                    hatch="////", linewidth=0.8,
                )  # fmt: skip
                within += part
    if station.arrives is not None:
        (mark,) = axes.plot(
            [station.arrives / unit], [place], "o", color=COLORS["ink"], markersize=2.6
        )
        named["arrives at the layer"] = mark


def shortened(way: Way) -> Iterator[tuple[str, Station]]:
    """The rows of the chart: layers at which nothing changes are one row together."""
    scale = max([abs(way.start), *(abs(one.arrives or 0.0) for one in way.stations)]) or 1.0
    changes = [change_at(way, place) / scale for place in range(len(way.stations))]
    limit = max(
        1e-3, sorted(changes, reverse=True)[MOST_ROWS - 1] if len(changes) > MOST_ROWS else 0
    )
    places = range(len(way.stations))
    for dull, group in groupby(places, key=lambda place: changes[place] < limit):
        members = [way.stations[place] for place in group]
        if dull and len(members) > 2:
            yield f"{len(members)} layers", members[-1]
        else:
            yield from ((short(one.label), one) for one in members)


def change_at(way: Way, place: int) -> float:
    """How much changes at a layer."""
    station = way.stations[place]
    if way.whole:
        return sum(map(abs, station.lost.values()))
    before = way.stations[place - 1].arrives if place else way.start
    return abs((station.arrives or 0.0) - (before or 0.0))


def described(way: Way) -> str:
    """The ledger in words."""
    unit = way.start or 1.0
    parts = [
        f"{KINDS[kind]} {'took' if total / unit > 0 else 'added'} {abs(total / unit):.1%}"
        for kind, total in way.totals.items()
        if abs(total / unit) >= 5e-4
    ]
    arrives = f"{way.end / unit:.1%} of the start" if way.start else f"{way.end:.4g}"
    return f"{arrives} arrives at the input" + (f"; {', '.join(parts)}" if parts else "")


# An evaluation.


def curves_chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    metric: str,
    salt: str,
    order: Sequence[str] = (),
) -> Markup:
    """The mean curves of a metric, one for each explainer; its place in ``order`` is its color."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*order, *curves]))}
    with drawing(2.4 + 0.11 * len(curves), salt) as (figure, axes):
        for name, (x, y) in curves.items():
            index = places[name]
            axes.plot(
                x, y, color=COLORS[SERIES[index % len(SERIES)]],
                linestyle=DASHES[index % len(DASHES)], marker=MARKS[index % len(MARKS)],
                markevery=max(1, len(x) // 6), markersize=3.5, linewidth=1.2, label=short(name),
            )  # fmt: skip
        axes.grid()
        axes.set_ylabel(fitted(metric, 150, LETTERS))
        legend(figure, axes, 2)
        return as_svg(figure, f"Curves of {metric}", f"Means of {', '.join(curves)}")


# What charts share.


def legend(figure: Any, axes: Any, columns: int) -> None:
    """What colors and marks mean, above the chart."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=LETTERS - 0.5)


def plain_powers(axis: Any) -> None:
    """Ticks at powers of ten alone, written 1e-6."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 0.1 else f"{value:.0e}")
    )


def short(name: str) -> str:
    """A name that is no wider than the room for it: the end of a path tells layers apart."""
    return fitted(name, ROOM, LETTERS, keep_end=True)
