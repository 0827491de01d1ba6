"""Reading back what an evaluation wrote: ``evaluation.json``, ``cases.csv``, ``occlusion.csv``."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphprop.errors import InputError
from graphprop.evaluation.occlusion import Occlusion
from graphprop.evaluation.results import VERSION, Evaluation, Facts, Values


def read_evaluation(folder: str | Path) -> tuple[Evaluation, Occlusion | None]:
    """Read what `graphprop evaluate -o FOLDER` wrote.

    Returns
    -------
    tuple
        The evaluation, and what ``--occlusion`` found; None without it.

    Raises
    ------
    InputError
        If the folder holds no complete evaluation, or a file can't be read.
    """
    folder = Path(folder)
    path = folder / "evaluation.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no evaluation.json: give the folder that `graphprop evaluate -o` wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise InputError(
                f"{path} is of version {content['version']}, and this graphprop reads {VERSION}: "
                "evaluate again"
            )
        found = Evaluation(content["rows"], content["skipped"])
        for curve in content["curves"]:
            pair = curve["explainer"], curve["metric"]
            found.curves[pair] = (curve["x"], curve["y"])
            if curve.get("error") is not None:
                found.errors[pair] = curve["error"]
        path = folder / "cases.csv"
        for row in rows_of(path):
            number = int(row["case"])
            fraction = float(row["fraction"]) if row["fraction"] else None
            found.facts[number] = Facts(row["name"], int(row["target"]), fraction)
            values = found.values.setdefault((row["explainer"], row["metric"]), Values())
            values.add(number, float(row["value"]))
        path = folder / "occlusion.csv"
        occluded = Occlusion([case_of(row) for row in rows_of(path)]) if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} can't be read as graphprop writes it: {error!r}") from error
    return found, occluded


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def case_of(row: Mapping[str, str]) -> dict[str, Any]:
    """A case of occlusion, with its numbers as numbers."""
    return {
        "case": int(row["case"]),
        "name": row["name"],
        "target": int(row["target"]),
        **{key: float(row[key]) for key in ("fraction", "object", "context")},
    }
