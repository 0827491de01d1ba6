"""Evaluate explainers on data: in batches, with bounded memory, and so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from graphprop.errors import InputError, OutputError, kind_of
from graphprop.evaluation.registry import METRICS, Metric, NotApplicable, find_metric
from graphprop.evaluation.results import Evaluation, Tally
from graphprop.evaluation.sample import (
    PREDICTED,
    Case,
    Explainer,
    Sample,
    batches_of,
    explain_batch,
    logits_of,
)

PARTIAL = "partial.jsonl"
"""The file of results so far, a line for each case and explainer."""
Progress = Callable[[int, "int | None", str], None]
"""Takes how many cases are done, of how many (None: not known), and the explainer at work."""
Numbered = tuple[int, Case]


def evaluate(
    explainers: Mapping[str, Explainer],
    data: Iterable[Any],
    metrics: Sequence[str | Metric | tuple[str, Mapping[str, Any]]] | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    resume: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate explainers by metrics, on pictures with labels and masks.

    Parameters
    ----------
    explainers
        Name to ``(x, target) -> (logits, relevance)``, with pictures ``[N, C, H, W]`` and classes
        ``[N]`` (int64). Any callable will do; a compiled explainer is one. `baselines` makes those
        to compare with. Where it has a method ``logits(x)``, perturbed pictures are classified by
        that.
    data
        Cases ``(image [C, H, W], target, mask [H, W] or None)``. A picture of several classes is
        several cases. The target -1 stands for the class that the first explainer's network
        predicts.
    metrics
        Names, ``"name:key=value"``, or ``(name, {key: value})``; by default all of `METRICS`.
    samples
        How many cases to use. Of a sequence, a choice at random that depends on the seed; of
        another iterable, the first ones.
    seed
        Of everything random: the choice of cases, noise, ties, resamples.
    batch_size
        Pictures that are explained at once. The results do not depend on it, but for rounding.
    resume
        A folder for results so far: what is found there isn't computed again.
    identity
        What the results depend on beside the arguments; results so far of another identity are
        refused.
    progress
        Called before each explainer's turn with a batch.

    Returns
    -------
    Evaluation
        Its ``rows`` hold ``explainer, metric, mean, low, high, n, higher_is_better``, with a
        bootstrap 95 % interval over the cases. A metric without a value on any case has no row,
        and ``skipped`` says why.

    Raises
    ------
    InputError
        If there are no explainers or no cases, or one of them isn't as described.
    MethodError
        If a metric, or a parameter of one, does not exist.
    OutputError
        If the results so far in ``resume`` are of another evaluation.
    """
    if not isinstance(explainers, Mapping) or not explainers:
        raise InputError(
            "explainers must be a dict of names and callables, with one at least, not "
            f"{kind_of(explainers)}"
        )
    for name, explainer in explainers.items():
        if not callable(explainer):
            raise InputError(f"the explainer {name!r} can't be called: it is {kind_of(explainer)}")
    for name, number, least in (
        ("samples", samples, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if number is not None and number < least:
            raise InputError(f"{name} must be at least {least}, not {number}")
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a list of names, not the text {metrics!r}")
    chosen = [find_metric(spec) for spec in (METRICS if metrics is None else metrics)]
    if len({metric.label for metric in chosen}) < len(chosen):
        raise InputError("a metric is named twice with the same parameters")
    tally = Tally(chosen)
    total = size_of(data) if samples is None else samples
    with ExitStack() as stack:
        known: dict[tuple[int, str], Any] = {}
        partial = None
        if resume is not None:
            key = {
                "metrics": [metric.label for metric in chosen],
                "samples": samples,
                "seed": seed,
                **(identity or {}),
            }
            known, partial = opened(resume, key, stack)
        count, classes, network = 0, 0, next(iter(explainers.values()))
        for batch in batches_of(cases_of(data, samples, seed), batch_size):
            classes = classes or classes_of(network, batch[0][1])
            batch = with_targets(batch, network, classes)
            for name, explainer in explainers.items():
                if progress is not None:
                    progress(count, total, name)
                missing = [(index, case) for index, case in batch if (index, name) not in known]
                fresh = records_of(missing, name, explainer, chosen, seed, batch_size)
                if partial is not None:
                    partial.writelines(json.dumps(record) + "\n" for record in fresh)
                    partial.flush()
                found = {record["case"]: record for record in fresh}
                for index, _ in batch:
                    tally.add(found.get(index) or known[index, name])
            count += len(batch)
    if not count:
        raise InputError("the data has no cases")
    return tally.result(list(explainers), seed)


def size_of(data: Iterable[Any]) -> int | None:
    """How many cases there are, where that is known."""
    return len(data) if isinstance(data, Sized) else None


def cases_of(data: Iterable[Any], samples: int | None, seed: int) -> Iterator[Numbered]:
    """The cases to use, with their numbers in the data."""
    length = size_of(data)
    if samples is not None and length is not None and hasattr(data, "__getitem__"):
        random = np.random.default_rng(seed)
        for index in sorted(random.permutation(length)[:samples].tolist()):
            yield index, Case.of(data[index], index)
        return
    for index, given in enumerate(data):
        if index == samples:
            return
        yield index, Case.of(given, index)


def classes_of(network: Explainer, case: Case) -> int:
    """How many classes a network has."""
    return logits_of(network, case.image[None], 0).shape[1]


def with_targets(batch: list[Numbered], network: Explainer, classes: int) -> list[Numbered]:
    """Cases whose targets are classes, by the network's prediction where none was given.

    Raises
    ------
    InputError
        If a target is no class.
    """
    found = []
    for index, case in batch:
        target = case.target
        if target == PREDICTED:
            target = int(logits_of(network, case.image[None], 0)[0].argmax())
        if not 0 <= target < classes:
            raise InputError(
                f"case {index} has the class {target}, and the network has the classes 0 to "
                f"{classes - 1}"
            )
        labels = case.labels | {target}
        found.append((index, Case(case.image, target, case.mask, labels, case.name)))
    return found


def records_of(
    cases: list[Numbered],
    name: str,
    explainer: Explainer,
    metrics: Sequence[Metric],
    seed: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Explain cases, and compute all metrics; a record for each case."""
    samples: list[Sample] = []
    for shape in dict.fromkeys(case.image.shape for _, case in cases):
        alike = [(index, case) for index, case in cases if case.image.shape == shape]
        x = torch.stack([case.image for _, case in alike])
        targets = torch.tensor([case.target for _, case in alike])
        logits, maps = explain_batch(explainer, x, targets)
        for (index, case), row, one in zip(alike, logits, maps, strict=True):
            sample = Sample(
                case.image,
                case.target,
                case.mask,
                case.labels,
                one,
                row,
                index,
                explainer,
                seed,
                batch_size,
            )
            samples.append(sample)
    samples.sort(key=lambda sample: sample.index)
    records: list[dict[str, Any]] = []
    for sample, (_, case) in zip(samples, cases, strict=True):
        fraction = None if sample.mask is None else sample.fraction
        records.append(
            {
                "case": sample.index,
                "name": case.name,
                "target": sample.target,
                "fraction": fraction,
                "explainer": name,
                "values": {},
                "reasons": {},
                "curves": {},
            }
        )
    for metric in metrics:
        values = metric.values(samples)
        for sample, record, value in zip(samples, records, values, strict=True):
            where = "reasons" if isinstance(value, NotApplicable) else "values"
            record[where][metric.label] = str(value) if where == "reasons" else value
            for points in sample.curves.values():
                record["curves"][metric.label] = points
            sample.curves.clear()
    return records


def opened(
    folder: Path, key: Mapping[str, Any], stack: ExitStack
) -> tuple[dict[tuple[int, str], Any], IO[str]]:
    """Read the results so far in a folder, and open their file for more.

    A last line that was cut off when the program was stopped is dropped.

    Raises
    ------
    OutputError
        If they are of another evaluation, or the file can't be written.
    """
    path = folder / PARTIAL
    key = json.loads(json.dumps(key))
    known: dict[tuple[int, str], Any] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        if lines:
            try:
                before, *records = [json.loads(line) for line in lines]
                known = {(record["case"], record["explainer"]): record for record in records}
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(f"{path} can't be read: remove it, to begin anew") from error
            if before != key:
                other = [name for name in key if before.get(name) != key[name]]
                raise OutputError(
                    f"{folder} holds the results so far of another evaluation "
                    f"({', '.join(other) or 'unknown'} differ): name another folder, or remove "
                    f"{path}"
                )
        with path.open("w" if not lines else "r+", encoding="utf-8") as file:
            if lines:
                file.truncate(sum(len(line.encode()) for line in lines))
            else:
                file.write(json.dumps(key) + "\n")
        return known, stack.enter_context(path.open("a", encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
