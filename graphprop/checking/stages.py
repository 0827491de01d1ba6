"""The values that every backend computes, in the order in which they come about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphprop.checking.report import shown
from graphprop.lowering import in_flow


@dataclass(frozen=True)
class Stage:
    """A value that every backend computes: a layer's result, or the relevance of that.

    Attributes
    ----------
    label
        The layer's; None for the input.
    kind
        ``"result"`` or ``"relevance"``.
    name
        The local variable of ``Explainer.forward`` that holds it, None where there is none.
    onnx
        The ONNX value that holds it.
    layers
        The layers that compute it: the layer itself, or those whose rules send it relevance.
    flow
        Which flow of relevance, where a method has several.
    """

    label: str | None
    kind: str
    name: str | None
    onnx: str | None
    layers: tuple[str, ...]
    flow: str = ""

    @property
    def key(self) -> str:
        """The label, with the flow."""
        return in_flow(self.label or "", self.flow)


def stages_of(entries: Sequence[Mapping[str, Any]], onnx: Mapping[str, str]) -> list[Stage]:
    """The stages in the order of computation: the results, then relevance from the output back.

    Parameters
    ----------
    entries
        A manifest's ``layers``.
    onnx
        Variable -> ONNX value, where they aren't called alike.
    """

    def stage(label: str | None, name: str | None, layers: tuple[str, ...], **more: str) -> Stage:
        return Stage(
            label=label,
            name=name,
            onnx=onnx.get(name, name) if name else None,
            layers=layers,
            **{"kind": "relevance", **more},
        )

    def senders(label: str | None) -> tuple[str, ...]:
        return tuple(e["label"] for e in entries if label in e["signal"] and e["rule"])

    relevances = [(e["label"], flow, name) for e in entries for flow, name in flows_of(e).items()]
    return [
        *(stage(e["label"], e["value"], (e["label"],), kind="result") for e in entries),
        *(
            stage(label, name, senders(label), flow=flow)
            for current in dict.fromkeys(flow for _, flow, _ in relevances)
            for label, flow, name in reversed(relevances)
            if flow == current
        ),
        stage(None, "relevance", senders(None)),
    ]


def flows_of(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """The variables of the relevance of a layer's result, by flow."""
    if entry["flows"]:
        return dict(entry["flows"])
    return {"": entry["relevance"]} if entry["rule"] else {}


def stage_name(stage: Stage) -> str:
    """The name of a stage in messages."""
    if stage.kind == "result":
        return f"the result of {shown(stage.label or '')}"
    of = "the input" if stage.label is None else f"the result of {shown(stage.label)}"
    of += f" in the {stage.flow} flow" if stage.flow else ""
    if not stage.layers:
        return f"the start: the relevance of {of}"
    rules = " and ".join(shown(label) for label in stage.layers[:3])
    more = f" and {len(stage.layers) - 3} more" if len(stage.layers) > 3 else ""
    return f"the relevance of {of}, from the rule of {rules}{more}"
