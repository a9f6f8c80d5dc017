"""Vision models that keep working when the domain changes; importing registers them in timm."""

from timm import create_model

from . import models
from ._version import __version__

__all__ = ["__version__", "create_model", "models"]
