"""A captured model: what a compile starts from, by any number of methods."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.export import ExportedProgram

from graphprop.errors import InputError, kind_of
from graphprop.frontend.arguments import check_example, check_model, runs_with_batch
from graphprop.frontend.capture import Example, capture, unwrapped


@dataclass(frozen=True, eq=False)
class Captured:
    """A model whose operators were captured, as `graphprop.capture` returns it.

    Capturing is most of a compile. Every compile from one capture has the same result as one from
    the model itself: no pass changes what was captured.

    Attributes
    ----------
    model
        The network, without what spread it over devices or compiled it.
    example
        The example input.
    program
        Its functional ATen operators. The tensors are the model's own.
    notes
        What was done to the model that the user should know.
    """

    model: nn.Module
    example: Example
    program: ExportedProgram
    notes: tuple[str, ...] = ()


def captured(model: object, example: object) -> Captured:
    """Capture a model, or return what was captured already.

    Raises
    ------
    LoadError
        If the model isn't one.
    InputError
        If the example isn't one, or is given beside a captured model, which has its own.
    CaptureError
        See `graphprop.frontend.capture.capture`.
    """
    if isinstance(model, Captured):
        if example is not None:
            raise InputError(
                f"the model was captured with an example_input, and {kind_of(example)} is given, "
                "too: leave it out, or capture the model again with it"
            )
        return model
    check_model(model)
    check_example(example)
    assert isinstance(model, nn.Module)
    inner, notes = unwrapped(model)
    given: Example = example
    try:
        program = capture(inner, given)
    except InputError:
        if runs_with_batch(inner, given):
            raise InputError(
                "example_input lacks the batch axis: pass example_input[None], of shape [1, ...]"
            ) from None
        raise
    return Captured(inner, given, program, tuple(notes))
