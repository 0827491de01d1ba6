"""Infer signs: whether each value can be negative, positive, both or neither.

It pays for the compiler: where an input is known to be non-negative, half of alpha-beta and gamma
disappears.
"""

from graphprop.network import Network, infer


def infer_signs(network: Network) -> Network:
    """Work out the signs anew from the input on; other passes may have moved operators."""
    for node in network.layers:
        infer(node)
    return network
