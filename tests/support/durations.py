"""The fast selection of the tests, by how long each took when it was last measured.

``make test-fast`` runs ``pytest -m "not slow"``. Slow is what is marked so, and what takes longer
than `LIMIT` by ``tests/durations.json``, unless it is marked as fast. To measure again::

    python -m pytest -n 2 --junit-xml=build/tests.xml
    python tests/support/durations.py build/tests.xml
"""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILE = TESTS / "durations.json"

LIMIT = 1.0
"""Seconds that the cases of one test function may take together in the fast selection.

With it, the selection takes about two and a half minutes on two cores. Functions below it are not
recorded.
"""


def name_of(item: pytest.Item) -> str:
    """``test_module::test_function``: modules have different names in all folders."""
    return f"{item.path.stem}::{item.name.partition('[')[0]}"


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Mark as slow what takes longer than `LIMIT`.

    Of a function with many cases, as many as fit into `LIMIT` stay, evenly spread; none where a
    single case is longer.
    """
    measured = json.loads(FILE.read_text())
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("fast") is None:
            cases[name_of(item)].append(item)
    for name, each in cases.items():
        seconds, count = measured.get(name, (0.0, 1))
        kept = min(len(each), int(LIMIT * count / seconds)) if seconds > LIMIT else len(each)
        fast = {index * len(each) // kept for index in range(kept)}
        for index, item in enumerate(each):
            if index not in fast:
                item.add_marker("slow")


def functions() -> set[str]:
    """The names of all test functions."""
    return {
        f"{file.stem}::{node.name}"
        for file in TESTS.rglob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def record(report: Path) -> None:
    """Write the durations of a JUnit report of pytest's."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.attrib["classname"].rpartition(".")[2]
        function = case.attrib["name"].partition("[")[0]
        seconds[f"{module}::{function}"].append(float(case.attrib["time"]))
    rows = [
        f"  {json.dumps(name)}: [{sum(each):.1f}, {len(each)}]"
        for name, each in sorted(seconds.items())
        if sum(each) > LIMIT
    ]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
