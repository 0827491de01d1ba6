"""What starting and compiling cost, as ratios: to importing torch, and to ``torch.export``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import warnings
from typing import Any

import torch
from torch.export import Dim

import graphprop
from benching.clock import processor_time, race, ratio, spread
from graphprop.frontend.load import LoadedModel

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "graphprop --help": ["-m", "graphprop", "--help"],
    "graphprop methods": ["-m", "graphprop", "methods"],
}


def start_times(repeats: int) -> dict[str, float]:
    """Processor time of the command's start: help in seconds, methods by ``import torch``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def started(arguments: list[str]) -> Any:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, capture_output=True, check=True, env=environment)

    runs = {name: started(arguments) for name, arguments in COMMANDS.items()}
    times = race(runs, repeats, processor_time)
    return {
        "graphprop --help, seconds": statistics.median(times["graphprop --help"]),
        "graphprop methods / import torch": ratio(
            times["graphprop methods"], times["import torch"]
        ),
    }


def compile_times(
    loaded: LoadedModel, method: str, repeats: int, *, check: bool = False
) -> dict[str, Any]:
    """``graphprop.compile`` by ``torch.export`` with decompositions; with ``check``, both by it."""
    batch = loaded.example[:1].repeat(2, *[1] * (loaded.example.dim() - 1))

    def export() -> Any:
        sizes = ({0: Dim("batch", min=1)},)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about what it will change
            program = torch.export.export(
                loaded.model, (batch,), strict=False, dynamic_shapes=sizes
            )
            return program.run_decompositions({})

    def compiled() -> Any:
        return graphprop.compile(loaded.model, loaded.example, method)

    runs = {"export": export, "compile": compiled}
    if check:
        runs["compile and check"] = lambda: compiled().check()
    times = race(runs, repeats, processor_time)
    return {
        "seconds": {name: statistics.median(found) for name, found in times.items()},
        "ratios": {
            f"{name} / export": ratio(times[name], times["export"])
            for name in times
            if name != "export"
        },
        "noise": max(spread(found) for found in times.values()),
    }
