"""The operators of graphprop's intermediate representation, and the functions rules are made of."""

from graphprop.ir.interval import Interval, Sign
from graphprop.ir.layout import Layout
from graphprop.ir.operation import Shape
from graphprop.ops import (  # of these, no operator is public: they register what they capture
    composed,
    constants,
    merge,
    statistics,
    written,
)
from graphprop.ops.activation import Clamp, Elu, Gelu, LeakyRelu, Prelu, Relu
from graphprop.ops.average import AdaptiveAvgPool, AvgPool
from graphprop.ops.base import ATEN, Operator, from_aten
from graphprop.ops.choose import Extremum, Maximum, Minimum, Where
from graphprop.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    Multiply,
    Negate,
    Negative,
    Positive,
    Subtract,
    absolute,
    negative,
    positive,
)
from graphprop.ops.fused import AddMultiple, AddProduct
from graphprop.ops.guarded import (
    DivideOrZero,
    KeepWhere,
    Mask,
    Stabilize,
    divide_or_zero,
    keep_where,
    mask,
    stabilize,
)
from graphprop.ops.linear import (
    AddBias,
    Conv,
    ConvTranspose,
    Dilate,
    Linear,
    LinearTranspose,
    PointwiseTranspose,
    TransposeWeight,
    Weighted,
)
from graphprop.ops.norm import BatchNorm, GroupNorm, LayerNorm, RmsNorm
from graphprop.ops.ones import Numbers, Ones, OnesLike, ones, ones_like
from graphprop.ops.padding import Pad
from graphprop.ops.patches import Collect, Unpool
from graphprop.ops.pool import AdaptiveMaxPool, Item, LogSumExp, MaxPool, Places, Route
from graphprop.ops.power import Power
from graphprop.ops.reduce import Extreme, Total, largest, smallest, total
from graphprop.ops.resample import ApplyMatrix, ResampleTranspose, Resampling
from graphprop.ops.shape import Permute, Reshape
from graphprop.ops.simple import Activation, Simple
from graphprop.ops.slices import Cat, Flip, Slice, Unslice
from graphprop.ops.softmax import LogSoftmax, Softmax
from graphprop.ops.start import Start
from graphprop.ops.sums import Expand, Mean, Spread, Sum
from graphprop.ops.traits import Signal, Trait
from graphprop.ops.upsample import Upsample

__all__ = [
    "ATEN",
    "Absolute",
    "Activation",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "Add",
    "AddBias",
    "AddMultiple",
    "AddProduct",
    "ApplyMatrix",
    "AvgPool",
    "BatchNorm",
    "Cat",
    "Clamp",
    "Collect",
    "Conv",
    "ConvTranspose",
    "Dilate",
    "Divide",
    "DivideOrZero",
    "Elu",
    "Expand",
    "Extreme",
    "Extremum",
    "Flip",
    "Gelu",
    "GroupNorm",
    "Interval",
    "Item",
    "KeepWhere",
    "LayerNorm",
    "Layout",
    "LeakyRelu",
    "Linear",
    "LinearTranspose",
    "LogSoftmax",
    "LogSumExp",
    "Mask",
    "MaxPool",
    "Maximum",
    "Mean",
    "Minimum",
    "Multiply",
    "Negate",
    "Negative",
    "Numbers",
    "Ones",
    "OnesLike",
    "Operator",
    "Pad",
    "Permute",
    "Places",
    "PointwiseTranspose",
    "Positive",
    "Power",
    "Prelu",
    "Relu",
    "ResampleTranspose",
    "Resampling",
    "Reshape",
    "RmsNorm",
    "Route",
    "Shape",
    "Sign",
    "Signal",
    "Simple",
    "Slice",
    "Softmax",
    "Spread",
    "Stabilize",
    "Start",
    "Subtract",
    "Sum",
    "Total",
    "Trait",
    "TransposeWeight",
    "Unpool",
    "Unslice",
    "Upsample",
    "Weighted",
    "Where",
    "absolute",
    "composed",
    "constants",
    "divide_or_zero",
    "from_aten",
    "keep_where",
    "largest",
    "mask",
    "merge",
    "negative",
    "ones",
    "ones_like",
    "positive",
    "smallest",
    "stabilize",
    "statistics",
    "total",
    "written",
]
