"""The published corruptions, package imagecorruptions 1.1.2, under today's numpy, scipy, skimage.

Its file asks for names that they no longer have. It is loaded by itself, between stand-ins for
those names, and nothing of it is changed but the two names that it took from skimage and numpy.

Source: Michaelis et al., 2019, https://arxiv.org/abs/1907.07484; `pip install imagecorruptions`.
"""

import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "imagecorruptions"


def load() -> tuple[Callable[[np.ndarray, str, int], np.ndarray], str]:
    """corrupt(picture uint8 [H, W, 3], name, severity) -> the same, and the package's version.

    Chance comes from numpy's global state. Raises ImportError where the package, or one that it
    needs, is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ImportError(f"{PACKAGE} is not installed: pip install {PACKAGE} scikit-image")
    version = importlib.metadata.version(PACKAGE)
    module = _module(Path(found.origin).with_name("corruptions.py"))

    def corrupt(picture: np.ndarray, name: str, severity: int) -> np.ndarray:
        shown = module.Image.fromarray(picture)  # as its own corrupt() does
        return np.asarray(getattr(module, name)(shown, severity)).astype(np.uint8)

    return corrupt, version


def _module(path: Path) -> Any:
    """The file as a module of its own."""
    resources, interpolation = types.ModuleType("pkg_resources"), types.ModuleType("interpolation")
    resources.resource_filename = lambda _, name: str(path.parent / name)  # type: ignore[attr-defined]
    ndimage = importlib.import_module("scipy.ndimage")
    interpolation.map_coordinates = ndimage.map_coordinates  # type: ignore[attr-defined]
    stand_ins = {"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation}
    before = {name: sys.modules.get(name) for name in stand_ins}
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}_corruptions", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    try:
        sys.modules.update(stand_ins)
        spec.loader.exec_module(module)
    finally:
        for name, previous in before.items():
            sys.modules.pop(name, None)
            if previous is not None:
                sys.modules[name] = previous
    gaussian = module.gaussian

    def with_channels(picture: np.ndarray, *args: Any, multichannel: bool = False, **more: Any):
        return gaussian(picture, *args, channel_axis=-1 if multichannel else None, **more)

    module.gaussian = with_channels
    module.np = types.SimpleNamespace(**{**vars(np), "float_": np.float64})
    return module
