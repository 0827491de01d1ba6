"""The generated source as a module in this process, with what the compile found out beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphprop.emit.execute import run_source
from graphprop.emit.python import PythonModule
from graphprop.errors import MethodError, WeightsError, nearest
from graphprop.explainer import Compiled, LayerInfo
from graphprop.ir.network import Network
from graphprop.rules import Method


class ExplainerModule(nn.Module):
    """A module that explains: ``explainer(x, target=None) -> (logits, relevance)``.

    Calling it runs the generated source, the same that is written to a directory.

    Attributes
    ----------
    compiled
        What the compile resulted in.
    module
        An instance of the generated ``Explainer``, with its weights.
    network, lowered, legal
        The annotated network; the graph of the explainer; the same legalized for torch.
    source, generated
        The text of the generated ``explainer.py``, and with it which variables hold what.
    name, method, settings
        What the model is called; the method, and its parameters with the given ones in them.
    class_names
        The names of the classes, if they were given.
    input_shapes, logits_shape, relevance_shape
        The shapes of all inputs, of the logits and of one map, without the batch.
    layers
        A `LayerInfo` for each layer.
    notes
        What the user should know: softmax removed ...
    """

    def __init__(self, compiled: Compiled) -> None:
        super().__init__()
        self.compiled = compiled
        # copies: load_state_dict writes into them, and other explainers share what was captured
        own = {name: tensor.clone() for name, tensor in compiled.legal.stored.items()}
        self.module = run_source(compiled.source)(own)

    def forward(
        self, x: torch.Tensor, *more: Any, target: torch.Tensor | int | None = None
    ) -> tuple[torch.Tensor, Any]:
        """Compute logits and relevance.

        Parameters
        ----------
        x, *more
            ``[N, ...]``, as the model takes it; of a model with several inputs, each of them. The
            target may follow.
        target
            None for the largest logit; a class, for all samples or of each (int64 ``[N]``, -1
            for the largest logit); or weights (floating point, of the shape of the logits) that
            the logits are multiplied by. Where the model has logits at each place, a class means
            the sum over all places, and weights choose a region.

        Returns
        -------
        logits
            ``[N, classes]`` or ``[N, classes, height, width]``, the model's own.
        relevance
            Of the shape of x, or, by a method whose map is made at a layer, `relevance_shape`. Of a
            model with several inputs, a tuple.

        Raises
        ------
        InputError
            If x has another shape or type than the explainer was compiled for, or the target is
            neither a class nor weights of the logits.
        """
        inputs = [x, *more]
        if len(inputs) == len(self.input_shapes) + 1:
            target = inputs.pop()
        self.compiled.check_input(inputs, target, self.input_types)
        logits, relevance = self.module(*inputs, target)
        return logits, relevance

    def relevance_at(self, path: str) -> torch.Tensor:
        """Relevance of a layer's result in the last call.

        Parameters
        ----------
        path
            A layer's path or label that ``record`` named when compiling. Where a method has
            several flows, their sum; one of them as ``"label (flow)"``. What each flow brings to
            the input is found by the input's name: ``"x (normal)"`` and ``"x (inversed)"`` of
            ``rap-bn`` compiled with ``record=["x"]``.

        Returns
        -------
        Tensor
            Of the shape of the layer's result.

        Raises
        ------
        MethodError
            If the layer isn't recorded, or nothing has been explained yet.
        """
        if not self.compiled.record:
            raise MethodError(f"nothing is recorded: compile with record=[{path!r}]")
        recorded: dict[str, torch.Tensor] | None = getattr(self.module, "recorded", None)
        if recorded is None:
            raise MethodError("call the explainer before asking for recorded relevance")
        flows = self.compiled.flows
        hits: dict[str, torch.Tensor] = {}
        for label, relevance in recorded.items():
            layer, module = flows[label]
            if path in (label, layer, module):
                hits[layer] = hits[layer] + relevance if layer in hits else relevance
        if path in hits:
            return hits[path]
        if len(hits) == 1:
            return next(iter(hits.values()))
        known = hits or {layer: None for layer, _ in map(flows.__getitem__, recorded)}
        raise MethodError(f"no one layer is recorded at {path!r}: {nearest(path, known)}")

    def refuse_changed_weights(self) -> None:
        """Raise if this module no longer computes what was compiled, but with other weights.

        What was compiled is what is checked and written: with other weights in the module, that
        would be the check, or the file, of another explainer.

        Raises
        ------
        WeightsError
            If a weight differs by value; another type or device alone is no change.
        """
        stored = self.compiled.legal.stored
        for node in self.compiled.legal.graph.nodes:
            if node.op != "get_attr" or node.target not in stored:
                continue
            buffer = getattr(self.module, node.name).detach()
            if not torch.equal(buffer.cpu(), stored[node.target].to("cpu", buffer.dtype)):
                raise WeightsError(
                    f"the explainer's weights were changed after the compile ({node.target!r} is "
                    "the first): compile the model that has these weights, and check or save that"
                )

    @property
    def input_types(self) -> tuple[torch.dtype, ...]:
        """The types of all inputs: where they are floating point, that of the weights."""
        buffers = (buffer.dtype for buffer in self.module.buffers())
        own = next((dtype for dtype in buffers if dtype.is_floating_point), None)
        types = self.compiled.input_types
        return tuple(own if own and dtype.is_floating_point else dtype for dtype in types)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of all inputs, without the batch."""
        return self.compiled.input_shapes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, the first, without the batch."""
        return self.input_shapes[0]

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """The shape of the logits, without the batch."""
        return self.compiled.logits_shape

    @property
    def relevance_shape(self) -> tuple[int, ...]:
        """The shape of one map, without the batch."""
        return self.compiled.relevance_shape

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.compiled.classes

    @property
    def layers(self) -> list[LayerInfo]:
        """The layers in the order of computation."""
        return self.compiled.layers

    @property
    def name(self) -> str:
        """What the model is called in the generated source."""
        return self.compiled.name

    @property
    def method(self) -> Method:
        """The method."""
        return self.compiled.method

    @property
    def settings(self) -> dict[str, Any]:
        """The method's parameters with the given ones in them."""
        return dict(self.compiled.settings)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes, if they were given."""
        names = self.compiled.class_names
        return None if names is None else list(names)

    @property
    def notes(self) -> list[str]:
        """What the user should know: softmax removed ..."""
        return list(self.compiled.notes)

    @property
    def network(self) -> Network:
        """The annotated network: every layer with its facts and rule."""
        return self.compiled.network

    @property
    def lowered(self) -> Network:
        """The graph of the explainer before it is legalized for a target."""
        return self.compiled.lowered

    @property
    def legal(self) -> Network:
        """The graph of the explainer as the generated source computes it."""
        return self.compiled.legal

    @property
    def generated(self) -> PythonModule:
        """The generated source, and which variables hold the values of layers."""
        return self.compiled.generated

    @property
    def source(self) -> str:
        """The text of the generated ``explainer.py``."""
        return self.compiled.source
