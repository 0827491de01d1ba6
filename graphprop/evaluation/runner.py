"""Evaluate explainers on data: in batches, with bounded memory, and so that it can be resumed."""

from __future__ import annotations

import json
import os
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
        partial: Partial | None = None
        if resume is not None:
            key = {
                "metrics": [metric.label for metric in chosen],
                "samples": samples,
                "seed": seed,
                **(identity or {}),
            }
            partial = stack.enter_context(Partial(resume, key))
        count, classes, network = 0, 0, next(iter(explainers.values()))
        for batch in batches_of(cases_of(data, samples, seed), batch_size):
            classes = classes or classes_of(network, batch[0][1])
            batch = with_targets(batch, network, classes)
            for name, explainer in explainers.items():
                if progress is not None:
                    progress(count, total, name)
                known = {} if partial is None else partial.read([i for i, _ in batch], name)
                missing = [(index, case) for index, case in batch if index not in known]
                fresh = records_of(missing, name, explainer, chosen, seed, batch_size)
                if partial is not None:
                    partial.write(fresh)
                known |= {record["case"]: record for record in fresh}
                for index, _ in batch:
                    tally.add(known[index])
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


class Partial:
    """The results so far in a folder, a line for each case and explainer.

    Only the places of the lines are held in memory. A last line that was cut off when the program
    was stopped is dropped.

    Parameters
    ----------
    folder
        Where the file lies.
    key
        What the results depend on: the first line.

    Raises
    ------
    OutputError
        If the results are of another evaluation, or the file can't be read or written.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.path = folder / PARTIAL
        self.places: dict[tuple[int, str], int] = {}
        first = json.dumps(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file: IO[bytes] = self.path.open("a+b")
            self.file.seek(0)
            end = self.scan(json.loads(first))
            self.file.truncate(end)
            self.file.seek(0, os.SEEK_END)
            if not end:
                self.file.write(first.encode() + b"\n")
        except OSError as error:
            raise OutputError(f"{self.path} can't be written: {error.strerror or error}") from error

    def scan(self, key: Any) -> int:
        """Find the lines; returns where the last complete one ends."""
        end = 0
        for line in self.file:
            if not line.endswith(b"\n"):
                break
            try:
                content = json.loads(line)
                if end:
                    self.places[content["case"], content["explainer"]] = end
                elif content != key:
                    self.refuse(content, key)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise OutputError(f"{self.path} can't be read: remove it, to begin anew") from error
            end += len(line)
        return end

    def refuse(self, before: Any, key: Mapping[str, Any]) -> None:
        """Refuse the results of another evaluation."""
        other = [name for name in key if before.get(name) != key[name]]
        raise OutputError(
            f"{self.path.parent} holds the results so far of another evaluation "
            f"({', '.join(other) or 'unknown'} differ): name another folder, or remove {self.path}"
        )

    def read(self, cases: Iterable[int], explainer: str) -> dict[int, dict[str, Any]]:
        """The results of those of some cases that there are, by an explainer."""
        found = {}
        for case in cases:
            place = self.places.get((case, explainer))
            if place is not None:
                self.file.seek(place)
                found[case] = json.loads(self.file.readline())
        return found

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append results."""
        self.file.seek(0, os.SEEK_END)
        self.file.writelines(json.dumps(record).encode() + b"\n" for record in records)
        self.file.flush()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *failure: object) -> None:
        self.file.close()
