"""Check every method in half precision, and print the table of docs/validation.md.

python tools/precisions.py [--models digits,shapes_resnet] [--methods rap,hedge] [--write]

Each cell is the largest error of a map, relative to float64, over the inputs that a check explains;
it is bold where the check says that the method can't be computed in that type.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import graphprop
from graphprop.builtin import METHODS
from graphprop.checking.report import Report
from graphprop.checking.variants import TYPES
from graphprop.errors import GraphpropError
from graphprop.frontend.load import load_source

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "validation.md"
BEGIN, END = "<!-- tools/precisions.py -->\n", "<!-- end -->\n"
MODELS = ("digits", "shapes_resnet", "shapes_densenet")


def reports(model: str, methods: Sequence[str]) -> Iterator[tuple[str, Report]]:
    """Check a model by each method that it can be compiled by without data."""
    loaded = load_source(str(ROOT / "models" / f"{model}.py"))
    for method in methods:
        try:
            explainer = graphprop.compile(loaded.model, loaded.example, method)
        except GraphpropError:
            continue  # its patterns are fitted to data
        yield method, explainer.check(backends=["python"], dtypes=[*TYPES])


def cell(report: Report, name: str) -> str:
    """The error of one type, in bold where the map isn't there."""
    result = next(result for result in report.backends if result.name == name)
    if result.worst is None or (result.problem and "NaN" in result.problem):
        return "**NaN**"
    error = f"{max(sample.error for sample in result.samples):.0e}"
    return error if result.passed else f"**{error}**"


def table(models: Sequence[str], methods: Sequence[str]) -> str:
    """The table in Markdown: a row for each method, the types of each model beside each other."""
    rows: dict[str, list[str]] = {method: [] for method in methods}
    for model in models:
        for method, report in reports(model, methods):
            names = ("python", *(f"python {name}" for name in TYPES))
            rows[method] += [cell(report, name) for name in names]
            print(model, method, *rows[method][-3:], flush=True)
    heads = [f"`{model}`: {name}" for model in models for name in ("float32", *TYPES)]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| `{m}` | {' | '.join(cells)} |" for m, cells in rows.items() if cells]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="files of models/")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = table(options.models.split(","), options.methods.split(","))
    if not options.write:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
