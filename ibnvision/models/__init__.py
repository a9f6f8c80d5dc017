"""Models: names registered in timm; segmenters and detectors over any feature backbone."""

from . import dea_net, densenet_ibn, resnet_ibn, vit_lambda
from .checkpoint import checkpoint_filter_fn, load_weights
from .dea_net import DEANet, from_weights
from .densenet_ibn import DenseNetIBN
from .detector import DETECTORS, create_detector, detection_losses, detector_defaults
from .placement import NORMS
from .resnet_ibn import ResNetIBN
from .seg_heads import HEADS
from .segmenter import Segmenter, create_segmenter
from .vit_lambda import LambdaVisionTransformer

CLASSIFIERS = tuple(sorted({**densenet_ibn.default_cfgs, **resnet_ibn.default_cfgs}))
RESTORERS = tuple(sorted(dea_net.default_cfgs))
TRANSFORMERS = tuple(sorted(vit_lambda.default_cfgs))
NAMES = (*CLASSIFIERS, *TRANSFORMERS, *RESTORERS)

__all__ = [
    "CLASSIFIERS",
    "DETECTORS",
    "HEADS",
    "NAMES",
    "NORMS",
    "RESTORERS",
    "TRANSFORMERS",
    "DEANet",
    "DenseNetIBN",
    "LambdaVisionTransformer",
    "ResNetIBN",
    "Segmenter",
    "checkpoint_filter_fn",
    "create_detector",
    "create_segmenter",
    "detection_losses",
    "detector_defaults",
    "from_weights",
    "load_weights",
]
