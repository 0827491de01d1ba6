"""Which layer each statement of a generated ``forward`` belongs to, and a source that is timed.

The source is read as it is, so that any version of it can be profiled: the comments above the
statements name layers, the attributes that they read begin with a layer's name, and the manifest
says which variables hold the results of layers and their relevance.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass

from graphprop.artifact.schema import Json
from graphprop.emit.text import comment
from graphprop.ir.names import identifier
from graphprop.profiling.result import FORWARD, RELEVANCE

RUN = ("forward", "single")
"""The methods that compute; a mean over samples calls the second for each of them."""

START = "Relevance, "
"""How the comment begins that stands between the forward part and relevance."""


@dataclass(frozen=True)
class Timed:
    """A statement: what it computes, and for which layer."""

    name: str
    layer: str | None
    part: str


class Owners:
    """Finds out which layer a statement belongs to.

    Parameters
    ----------
    layers
        A manifest's ``layers``.
    """

    def __init__(self, layers: list[Json]) -> None:
        self.labels = {comment(layer["label"]): layer["label"] for layer in layers}
        # of a map that is averaged the manifest names no variables: those of one sample are named
        # after the layers all the same
        named = {identifier(layer["path"]): layer["label"] for layer in reversed(layers)}
        given = {layer["value"]: layer["label"] for layer in layers if layer["value"]}
        self.values = given or named
        senders: dict[str, list[str]] = {}
        for layer in layers:
            for source in layer["signal"] if layer["rule"] else ():
                senders.setdefault(source, []).append(layer["label"])
        relevances = {}
        for layer in layers:
            for name in (layer["relevance"], *layer["flows"].values()):
                if name:
                    relevances[name] = layer["label"]
        self.relevances: Mapping[str, str] = relevances
        self.senders = {
            name: senders[label][0] for name, label in relevances.items() if label in senders
        }

    def in_heading(self, heading: str) -> str | None:
        """The layer that a comment names before its colon."""
        for text in (heading, heading.partition(" flow, ")[2]):
            found = [shown for shown in self.labels if text.startswith(f"{shown}:")]
            if found:
                return self.labels[max(found, key=len)]
        return None

    def by_attribute(self, statement: ast.stmt) -> str | None:
        """The layer whose weights a statement reads."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self":
                found = [v for v in self.values if node.attr.startswith(f"{v}_")]
                if found:
                    return self.values[max(found, key=len)]
        return None

    def of(self, statement: ast.stmt, names: list[str], heading: str, part: str) -> str | None:
        """The layer of a statement, None where nothing tells."""
        if part == FORWARD:
            known = [self.values[name] for name in names if name in self.values]
            return known[0] if known else self.in_heading(heading)
        found = self.in_heading(heading) or self.by_attribute(statement)
        return found or next((self.senders[n] for n in names if n in self.senders), None)


def timed(source: str, layers: list[Json]) -> tuple[ast.Module, list[Timed]]:
    """A source that calls ``_mark(i)`` after statement i, and what these statements are.

    Its ``_mark(-1)`` stands where a method begins.
    """
    owners, found = Owners(layers), list[Timed]()
    tree = ast.parse(source)
    comments = comments_of(source)
    for method in methods_of(tree):
        body: list[ast.stmt] = [called("_mark", -1, method)]
        heading, part, layer = "", FORWARD, None
        below = method.lineno
        for statement in method.body:
            for line in range(below, statement.lineno):
                text = comments.get(line, "")
                if text and not text.startswith("fmt:"):
                    heading, layer = text, None
                    part = RELEVANCE if text.startswith(START) else part
            below = statement.lineno
            names = assigned(statement)
            if any(name in owners.relevances for name in names):
                part = RELEVANCE
            if isinstance(statement, ast.Return):
                body.append(statement)
                continue
            layer = owners.of(statement, names, heading, part) or layer
            if method.name == "forward" and len(list(methods_of(tree))) > 1:
                layer = None
            body += [statement, called("_mark", len(found), statement)]
            found.append(Timed(names[0] if names else "", layer, part))
        method.body = body
    return tree, found


def methods_of(tree: ast.Module) -> list[ast.FunctionDef]:
    """The methods of ``Explainer`` that compute."""
    return [
        method
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Explainer"
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name in RUN
    ]


def comments_of(source: str) -> dict[int, str]:
    """Line -> the text of a comment that stands alone on it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }


def assigned(statement: ast.stmt) -> list[str]:
    """The names that a statement assigns."""
    if isinstance(statement, ast.Delete):
        return []
    names = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def called(name: str, number: int, place: ast.stmt) -> ast.stmt:
    """A call as a statement."""
    call = ast.parse(f"{name}({number})").body[0]
    for node in ast.walk(call):
        ast.copy_location(node, place)
    return call
