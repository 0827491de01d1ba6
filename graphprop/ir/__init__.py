"""The intermediate representation: a graph of operators with facts about its values.

`network` is the graph with its tensors, `facts` what is known of each node (with `interval` and
`layout`), `operation` what a graph needs of an operator, `writer` how nodes are written, `rewrite`
how they are replaced, `verify` what must hold, `show` the printer, and `interpret` runs a graph.
"""
