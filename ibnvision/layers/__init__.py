"""Layers: modules that own the parameters of the operators, and conversions to them."""

from ._conversion import Conversion
from ._fusion import with_act
from ._structure import keep_modes
from .content_guided_attention import CGA, CGAFusion
from .convert import convert_to_ibn, fuse_norm_act
from .convert_deconv import convert_to_deconv, reparameterize
from .convert_lambda import from_lambda, to_lambda
from .dea import DEAB, DEB
from .detail_conv import DEConv
from .fold_norm import fold_norm
from .ibn_norm import IBN, BatchNormAct2d, IBNAct2d, InstanceNormAct2d
from .instance_whitening import InstanceWhiteningAct2d
from .lambda_attention import (
    LambdaAttention,
    LambdaAttentionRope,
    LambdaBeitAttention,
    LambdaEvaAttention,
    LambdaForm,
)
from .lambda_cache import LambdaCache, lambda_decode
from .mixstyle import MixStyle
from .switchable_whitening import SwitchWhiten2d

__all__ = [
    "CGA",
    "DEAB",
    "DEB",
    "IBN",
    "BatchNormAct2d",
    "CGAFusion",
    "Conversion",
    "DEConv",
    "IBNAct2d",
    "InstanceNormAct2d",
    "InstanceWhiteningAct2d",
    "LambdaAttention",
    "LambdaAttentionRope",
    "LambdaBeitAttention",
    "LambdaCache",
    "LambdaEvaAttention",
    "LambdaForm",
    "MixStyle",
    "SwitchWhiten2d",
    "convert_to_deconv",
    "convert_to_ibn",
    "fold_norm",
    "from_lambda",
    "fuse_norm_act",
    "keep_modes",
    "lambda_decode",
    "reparameterize",
    "to_lambda",
    "with_act",
]
