"""Layers: modules that own the parameters of the operators, and conversions to them."""

from ._fusion import with_act
from .convert import Conversion, convert_to_ibn, fuse_norm_act
from .ibn_norm import IBN, BatchNormAct2d, IBNAct2d, InstanceNormAct2d

__all__ = [
    "IBN",
    "BatchNormAct2d",
    "Conversion",
    "IBNAct2d",
    "InstanceNormAct2d",
    "convert_to_ibn",
    "fuse_norm_act",
    "with_act",
]
