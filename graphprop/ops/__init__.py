"""The operators of graphprop's intermediate representation, and the functions rules are made of."""

import graphprop.ops.merge
from graphprop.ops.activation import (
    Activation,
    Clamp,
    Elu,
    Gelu,
    LeakyRelu,
    Power,
    Prelu,
    Relu,
    Simple,
    Softmax,
)
from graphprop.ops.base import ATEN, Operator, Shape, Sign
from graphprop.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    DivideOrZero,
    KeepWhere,
    Multiply,
    Negate,
    Negative,
    Numbers,
    Ones,
    OnesLike,
    Positive,
    Stabilise,
    Subtract,
    absolute,
    divide_or_zero,
    keep_where,
    negative,
    ones,
    ones_like,
    positive,
    stabilise,
)
from graphprop.ops.linear import (
    AddBias,
    Conv,
    ConvTranspose,
    Dilate,
    Linear,
    LinearTranspose,
    TransposeWeight,
)
from graphprop.ops.norm import BatchNorm, GroupNorm, LayerNorm, RmsNorm
from graphprop.ops.pool import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    ApplyMatrix,
    AvgPool,
    Item,
    MaxPool,
    ResampleTranspose,
    Resampling,
    Route,
    Upsample,
)
from graphprop.ops.reduce import Extreme, Total, largest, smallest, total
from graphprop.ops.shape import (
    Cat,
    Expand,
    Flip,
    Pad,
    Permute,
    Reshape,
    Slice,
    Spread,
    Sum,
    Unslice,
)
from graphprop.ops.start import Start

__all__ = [name for name in dir() if not name.startswith("_")]
