"""The page that steps through the passes of a compile, old beside new.

Written as ``index.html`` into the folder of ``--dump-ir``, beside the printed networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphprop.drawing.compare import grouped, rows_of
from graphprop.drawing.graph import graph_of
from graphprop.drawing.pages import TEMPLATES, rendered
from graphprop.drawing.svg import draw
from graphprop.explainer import layer_info
from graphprop.ir.facts import shape_of
from graphprop.ir.network import Network
from graphprop.passes.pipeline import Record

INDEX = "index.html"

SUMMARIES = {
    "canonicalize": "Translates ATen operators to graphprop's; drops what changes nothing.",
    "join_sums": "Turns nested additions into one with all operands.",
    "fold_batchnorm": "Merges batch norms into the layers beside them, if the method wants that.",
    "infer_ranges": "Infers an interval for each value, and so the signs it can have.",
    "infer_layouts": "Infers which axes hold the batch, the channels and the places.",
    "tag_roles": "Finds what each layer is there for, by data flow.",
    "find_layer": "Finds the layer at which the method makes its map, if it does so at one.",
    "assign_rules": "Gives each layer that relevance reaches its rule.",
    "lower": "Walks the network backwards, and lets each rule write what it computes.",
    "simplify": "Rewrites until nothing is left to simplify, and names the values.",
    "legalize_torch": "Rewrites to what PyTorch computes fastest; starts from simplify's result.",
    "legalize_onnx": "Rewrites to what ONNX has; starts from simplify's result.",
}
"""What each pass is for; one that was added has no line here."""


class StepsPage:
    """Writes the page, again after each run of the pipeline; keeps the drawing of the network."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.picture = ""

    def __call__(self, folder: Path, records: Mapping[str, Record], network: Any) -> None:
        """Write the page.

        Parameters
        ----------
        folder
            Where the printed networks lie.
        records
            The passes that ran so far.
        network
            What the last of them returned.
        """
        tagged = isinstance(network, Network) and network.level == "canonical"
        if "assign_rules" in records and tagged and not self.picture:
            self.picture = picture_of(self.title, network)
        text = self.page(records)
        (folder / INDEX).write_text(text, encoding="utf-8", errors="backslashreplace")

    def page(self, records: Mapping[str, Record]) -> str:
        """The page's text."""
        steps = [
            {
                "name": name,
                "file": f"{number:02}_{name}.txt",
                "summary": SUMMARIES.get(name, "A pass that was added."),
                "milliseconds": f"{1000 * record.seconds:.1f}",
                "before": record.before,
                "after": record.after,
                "rewrites": grouped(record.log.fired),
                "refused": grouped(record.log.refused),
                "decisions": record.decisions,
                "rows": rows_of(record.old, record.new),
            }
            for number, (name, record) in enumerate(records.items(), start=1)
        ]
        script = (TEMPLATES / "steps.js").read_text(encoding="utf-8")
        return rendered(
            "steps.html", script=script, title=self.title, picture=self.picture, steps=steps
        )


def picture_of(title: str, network: Network) -> str:
    """The drawing of a network whose layers have their roles and rules."""
    shapes = [shape_of(node)[1:] for node in network.inputs]
    layers = [layer_info(node).as_dict() for node in network.layers]
    return draw(graph_of(title, shapes, layers, network.decisions), style=False)
