"""Drawing a network: from a plain list of its layers to an SVG picture and to HTML pages.

    svg = draw(graph_of(title, input_shapes, layers, batch_norms))

`graph` is the list, `units` puts a layer and the activation behind it into one box, `blocks` cuts
the network where a single value passes and finds each box its place, `routing` leads the edges
beside the boxes, `columns` puts the blocks on the page, and `svg` writes what that results in.
Nothing here needs torch, so that a picture can be drawn from a manifest.
"""

from graphprop.drawing.columns import lay_out
from graphprop.drawing.graph import Graph, Layer, graph_of, graph_of_manifest
from graphprop.drawing.svg import STYLE, draw

__all__ = ["STYLE", "Graph", "Layer", "draw", "graph_of", "graph_of_manifest", "lay_out"]
