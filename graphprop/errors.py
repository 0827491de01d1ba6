"""The errors that graphprop raises, as one typed hierarchy.

The text of an error is part of the interface: it names the user's layer (module path) and source
line where there is one, and says what to do. The command line prints the text alone and exits with
``exit_code``.
"""

from collections.abc import Iterable, Mapping


class GraphpropError(Exception):
    """Anything the user can correct: bad input, an unsupported operator, a wrong option."""

    exit_code = 2


class LoadError(GraphpropError):
    """The source names no model, several, or one that can't be built."""


class WeightsError(GraphpropError):
    """A weight file that can't be read, or doesn't fit the model."""


class InputError(GraphpropError):
    """An input of the wrong shape or type."""


class CaptureError(GraphpropError):
    """The model can't be captured as a graph: control flow, train mode, several outputs."""


class UnsupportedOperator(CaptureError):
    """The model uses an operator that graphprop does not support."""


class OperatorError(GraphpropError):
    """An operator from outside whose source can't stand in a generated module."""


class MethodError(GraphpropError):
    """An unknown method, rule, role or parameter, or one that can't hold on this network."""


class OutputError(GraphpropError):
    """The output directory can't be written, or isn't one of graphprop's."""


class VerificationError(GraphpropError):
    """A pass left the network in a state that its level doesn't allow: a defect in graphprop."""

    exit_code = 3


class EquivalenceError(GraphpropError):
    """Two backends that must agree do not."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a "there is no ..." message: the name that is most like it, or all that exist."""
    import difflib  # only where something is wrong: the command has to start at once

    names = sorted(known)
    # 0.5: a short name with one letter wrong is still found
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "there are: " + ", ".join(names)


def kind_of(value: object) -> str:
    """Name a value by its type, for messages."""
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {kind}"
    if isinstance(value, Mapping) and not value:
        return f"an empty {kind}"
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
