"""Vision models that keep working when the domain changes; importing registers them in timm.

The command line alone does so with its first command: its help and its errors need no torch.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__

__all__ = ["__version__", "create_model", "models"]


def _is_command() -> bool:
    """Whether this process is `ibnvision ...` or `python -m ibnvision ...`."""
    name = sys.argv[0] if sys.argv else ""
    if name == "-m":
        return ("-m", "ibnvision") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return Path(name).stem == "ibnvision"


if TYPE_CHECKING or not _is_command():
    from timm import create_model

    from . import models
