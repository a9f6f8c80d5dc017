"""Models: names registered in timm, and a segmenter over any feature backbone."""

from . import densenet_ibn, resnet_ibn
from .checkpoint import checkpoint_filter_fn, load_weights
from .densenet_ibn import DenseNetIBN
from .resnet_ibn import ResNetIBN
from .segmenter import HEADS, Segmenter, create_segmenter

NAMES = tuple(sorted(cfg for module in (densenet_ibn, resnet_ibn) for cfg in module.default_cfgs))

__all__ = [
    "HEADS",
    "NAMES",
    "DenseNetIBN",
    "ResNetIBN",
    "Segmenter",
    "checkpoint_filter_fn",
    "create_segmenter",
    "load_weights",
]
