"""What a check explains: inputs of several kinds, and every kind of target.

Each kind sees what the others don't. In normal noise everything is alive and of one size; noise
from 0 to 1 goes through the recorded preprocessing, as pictures do; where most entries are zero,
windows are empty; on a blank input all of a layer is zero, and guards against division by zero
matter; on a constant one everything differences are made of is gone. Run as one batch, they are
unlike each other, so that whatever mixes samples of a batch is seen.

The numbers of a row depend on its name alone, so that a later check explains the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from graphprop.artifact.schema import Json
from graphprop.checking.runner import SEED, pack, target_of, unpack
from graphprop.errors import InputError
from graphprop.pictures.preprocessing import Preprocessing

FLAT = ("blank", "constant")
"""Inputs on which most entries of a window are equal, so that rounding chooses the largest."""

LARGEST = -1
"""As target: the class of the largest logit."""

WEIGHTED = -2
"""As target: weights of the outputs."""

LARGEST_BATCH = 8
"""How many samples run at once: every intermediate value of a batch is in memory."""

CLEAR = 1e-3
"""How far the largest logit must lead, relative to it, for every precision to find it: a hundred
times what logits may be off by."""

PICTURES = (".png", ".jpg", ".jpeg")
CONSTANT = 0.5
"""The value of a constant input, between black and white: 0 is that of the blank one."""

SPARSE = 0.05
"""The share of entries of a sparse input that aren't zero: few enough for empty 3x3 windows."""

LARGE = 5_000_000
"""From how many entries of layers' results on a network is explained on fewer inputs."""


@dataclass(frozen=True)
class Probes:
    """What is explained, a row each: inputs ``[N, ...]``, and a class or weights.

    Several inputs are packed into one tensor ``[N, total]``; ``shapes`` are theirs.

    Attributes
    ----------
    x
        The inputs.
    target
        A class for each, or `LARGEST`; `WEIGHTED` for the last rows, as many as there are weights.
    names
        A short name of each row.
    weights
        Of the outputs, in place of a class, for the last rows.
    """

    x: torch.Tensor
    target: torch.Tensor
    shapes: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
    weights: torch.Tensor | None = None

    def part(self, rows: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """The inputs by name, and the target, of some of the rows, all of one kind of target."""
        parts = unpack(self.x[list(rows)], self.shapes)
        names = ["x", *(f"x_{number}" for number in range(2, len(parts) + 1))]
        return dict(zip(names, parts, strict=True)), self.targets(rows)

    def targets(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Classes, weights, or None for the largest logit."""
        return target_of("auto", list(rows), self.tensors)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The same as `graphprop.checking.runner` reads it."""
        found = {"x": self.x, "target": self.target}
        return found if self.weights is None else found | {"weights": self.weights}

    def name(self, row: int) -> str:
        """What a row is."""
        return self.names[row] if self.names else str(row)

    def is_flat(self, row: int) -> bool:
        """Whether most entries of the input are equal."""
        return self.name(row).partition(" ")[0] in FLAT

    @property
    def by_class(self) -> list[int]:
        """The rows that are explained by class."""
        return [row for row in range(len(self)) if int(self.target[row]) != WEIGHTED]

    @property
    def weighted(self) -> list[int]:
        """The rows that are explained by weights."""
        return [row for row in range(len(self)) if int(self.target[row]) == WEIGHTED]

    def __len__(self) -> int:
        return len(self.target)

    def only(self, rows: Sequence[int]) -> Probes:
        """Some of the rows."""
        kept = list(rows)
        weights = self.weights
        if weights is not None:
            start = len(self) - len(weights)
            chosen = [row - start for row in kept if row >= start]
            weights = weights[chosen] if chosen else None
        names = tuple(self.name(row) for row in kept)
        return Probes(self.x[kept], self.target[kept], self.shapes, names, weights)


@dataclass(frozen=True)
class Batch:
    """Rows that run at once.

    Attributes
    ----------
    rows
        Which.
    target
        How they say what to explain: ``"class"``, ``"none"``, ``"largest"`` (-1), ``"weights"``, or
        ``"auto"``: as the row's own target says.
    """

    rows: list[int] = field(default_factory=list)
    target: str = "class"


def probes(
    shapes: Sequence[Sequence[int]],
    logits: Sequence[int],
    samples: int | None,
    *,
    size: int = 0,
    preprocessing: Json | None = None,
    picture: tuple[str, torch.Tensor] | None = None,
    given: torch.Tensor | None = None,
) -> Probes:
    """Make what a check explains.

    Parameters
    ----------
    shapes, logits
        Of the inputs and of the logits, without the batch.
    samples
        How many inputs of normal noise, by default 2, and of a large network 1; one of each other
        kind comes to these.
    size
        How many entries the results of all layers have. A large network is explained on fewer
        kinds, so that its check does not take several times as long.
    preprocessing
        How a picture becomes an input; see `graphprop.pictures.preprocessing`.
    picture
        The name of a picture, and the input it becomes.
    given
        Further inputs, packed.
    """
    large = size >= LARGE
    samples = (1 if large else 2) if samples is None else samples
    if samples < 1:
        raise InputError(f"a check needs at least one sample, not {samples}")
    names = [f"noise {index}" for index in range(samples)]
    names += ["uniform", "sparse", "blank", *([] if large else ["constant"])]
    rows = [pack([part[None] for part in drawn(name, shapes, preprocessing)]) for name in names]
    targets = [class_of(name, logits[0]) for name in names]
    more = [] if picture is None else [picture]
    if given is not None:
        more += [(f"inputs[{index}]", x[None]) for index, x in enumerate(given)]
    for name, x in more:
        names.append(name)
        rows.append(x)
        targets.append(LARGEST)
    twice = [names.index(name) for name in ("noise 0", "sparse")[1 if large else 0 :]]
    weights = torch.stack([weights_of(names[row], logits) for row in twice])
    rows += [rows[row] for row in twice]
    names += [f"weights on {names[row]}" for row in twice]
    targets += [WEIGHTED] * len(twice)
    return Probes(
        torch.cat(rows),
        torch.tensor(targets),
        tuple(map(tuple, shapes)),
        tuple(names),
        weights,
    )


def generator_of(name: str) -> torch.Generator:
    """Random numbers that depend on a name alone."""
    return torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))


def drawn(
    name: str, shapes: Sequence[Sequence[int]], preprocessing: Json | None
) -> list[torch.Tensor]:
    """The inputs of one row."""
    generator = generator_of(name)
    found = []
    for index, shape in enumerate(shapes):
        through = preprocessing if index == 0 else None
        if name == "uniform":
            found.append(preprocessed(torch.rand(*shape, generator=generator), through))
        elif name == "blank":
            found.append(torch.zeros(*shape))
        elif name == "constant":
            found.append(preprocessed(torch.full(tuple(shape), CONSTANT), through))
        else:
            x = torch.randn(*shape, generator=generator)
            if name == "sparse":
                # few entries, and larger ones than the others have
                x = 4 * x * (torch.rand(*shape, generator=generator) < SPARSE)
            found.append(x)
    return found


def preprocessed(x: torch.Tensor, preprocessing: Json | None) -> torch.Tensor:
    """Entries from 0 to 1 as a picture's become an input, where that is known."""
    known = preprocessing or {}
    for key, change in (("mean", torch.sub), ("std", torch.div)):
        numbers = torch.tensor(known.get(key) or [], dtype=torch.float32)
        if x.dim() > 1 and len(numbers) == x.shape[0]:
            x = change(x, numbers.reshape(-1, *[1] * (x.dim() - 1)))
    return x


def class_of(name: str, classes: int) -> int:
    """What is explained: the largest logit for the first noise and what pictures look like."""
    if name in ("noise 0", "uniform", "constant"):
        return LARGEST
    return int(torch.randint(classes, (), generator=generator_of(f"target of {name}")))


def weights_of(name: str, logits: Sequence[int]) -> torch.Tensor:
    """Weights of the outputs, of both signs."""
    return torch.randn(*logits, generator=generator_of(f"weights of {name}"))


def picture_in(
    directory: Path, manifest: Json
) -> tuple[tuple[str, torch.Tensor] | None, str | None]:
    """The first picture in a directory as an input, or why there is none that can be read."""
    files = sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in PICTURES and path.is_file() and not path.is_symlink()
    )
    if not files:
        return None, None
    try:
        preprocessing = Preprocessing.of(manifest)
        shown, _ = preprocessing.read(files[0])
        return (f"picture {files[0].name}", preprocessing.tensor(shown)), None
    except InputError as error:
        return None, f"the picture {files[0].name} is not explained: {error}"


def read_inputs(file: Path, shapes: Sequence[Sequence[int]]) -> torch.Tensor:
    """Read inputs ``[N, ...]`` from an .npy file, packed where there are several (an .npz file).

    Raises
    ------
    InputError
        If the file can't be read, or holds something else.
    """
    try:
        content = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file} can't be read ({error}): give an .npy file that numpy.save wrote"
        ) from error
    wanted = [tuple(shape) for shape in shapes]
    if isinstance(content, np.ndarray):
        arrays = [content]
    else:
        with content:
            arrays = [content[name] for name in content.files]
    expected = " and ".join(str(("N", *shape)) for shape in wanted)
    found = " and ".join(str(array.shape) for array in arrays)
    fine = len(arrays) == len(wanted) and all(
        array.shape[1:] == shape and len(array) == len(arrays[0]) > 0
        for array, shape in zip(arrays, wanted, strict=False)
    )
    if not fine:
        raise InputError(f"{file} holds arrays of shape {found}, and inputs have {expected}")
    if any(array.dtype.kind not in "fiu" for array in arrays):
        raise InputError(f"{file} holds {arrays[0].dtype}, and inputs are numbers")
    tensors = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError(f"{file} holds NaN or infinity")
    return pack(tensors)


# In which batches


def batches(rows: Sequence[int], target: str, *first: int) -> list[Batch]:
    """Rows in batches, the first of the sizes given, the others as large as they may be."""
    sizes = [*first, *[LARGEST_BATCH] * (len(rows) // LARGEST_BATCH + 1)]
    found, start = [], 0
    for size in sizes:
        found.append(Batch(list(rows[start : start + size]), target))
        start += size
    return [batch for batch in found if batch.rows]


def mixed(rows: Sequence[int], samples: Probes) -> list[int]:
    """Rows with the flat ones among the others, not behind them."""
    flat = [row for row in rows if samples.is_flat(row)]
    return sorted(rows, key=lambda row: (row in flat and row != flat[0], row))


def largest_rows(samples: Probes, logits: torch.Tensor) -> list[int]:
    """The rows whose target is the class of the largest logit, by a clear lead."""
    found = []
    for row in samples.by_class:
        sums = logits[row].flatten(1).sum(1) if logits[row].dim() > 1 else logits[row]
        first, *others = sums.sort(descending=True).values.tolist()
        clear = not others or first - others[0] > CLEAR * float(sums.abs().max())
        if clear and int(sums.argmax()) == int(samples.target[row]):
            found.append(row)
    return found


def plan(samples: Probes, logits: torch.Tensor, single: str, *, weights: bool) -> list[Batch]:
    """The batches in which a backend runs: of one and of several, each kind of target.

    Parameters
    ----------
    logits
        The right ones, which say where None and a class must be the same.
    single
        How the backend is asked for the largest logit: ``"none"``, ``"largest"``, or ``"class"``
        if it can't be.
    weights
        Whether the backend takes weights.
    """
    largest = largest_rows(samples, logits)
    alone = largest[:1]
    others = [row for row in samples.by_class if row not in alone]
    found = batches(alone, single)
    several = [row for row in largest if row not in alone]
    if len(several) > 1 and single != "class":
        # by the largest logit, alone and with others; the rest by class, one alone
        found += batches(several, single)
        others = [row for row in others if row not in several]
        if single == "none":
            found += batches(several, "largest")
    # of several sizes, one of them neither 1 nor the number of classes
    found += batches(others, "class", 1, 3 if logits.shape[1] == 2 else 2)
    if weights and samples.weighted:
        found += batches(samples.weighted, "weights")
    return found
