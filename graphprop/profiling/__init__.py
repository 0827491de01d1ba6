"""Where the time of an explanation goes: by layer, forward pass and relevance apart."""

from graphprop.profiling.profiler import profile
from graphprop.profiling.result import LayerTime, Profile

__all__ = ["LayerTime", "Profile", "profile"]
