"""Reads photographs as people have them, and writes a restored one in the same kind as PNG."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_FULL = {"uint8": 255, "uint16": 65535}
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as OpenCV's grey


class Photo(NamedTuple):
    """A decoded picture, upright by its EXIF orientation."""

    image: Tensor  # float32 RGB [3, H, W] in [0, 1]
    alpha: Any  # NumPy [H, W] of the file's type, or None
    grey: bool
    full: int  # the value of white in the file: 255, or 65535


def read_photo(path: Path) -> Photo:
    """Read 8 or 16 bits a channel, grey or colour, with or without alpha.

    Raises: ValueError naming the file.
    """
    from ibnvision.data.opencv import cv2

    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if stored is None or pixels is None:
        raise ValueError(f"{path} cannot be read as a picture")
    if stored.dtype.name not in _FULL or pixels.dtype != stored.dtype:
        raise ValueError(f"{path} must have 8 or 16 bits a channel, got {stored.dtype.name}")
    full = _FULL[stored.dtype.name]
    alpha = _upright_alpha(stored, pixels) if stored.ndim == 3 and stored.shape[2] == 4 else None
    return Photo(to_image(pixels, full), alpha, stored.ndim == 2, full)


def to_image(pixels: Any, full: int = 255) -> Tensor:
    """OpenCV's BGR [H, W, 3] as float32 RGB [3, H, W] in [0, 1]."""
    values = np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(values).div_(full)


def to_pixels(image: Tensor, full: int = 255) -> Any:
    """RGB [3, H, W] in [0, 1], rounded, as OpenCV's BGR [H, W, 3]."""
    dtype = np.uint8 if full == 255 else np.uint16
    values = image.detach().float().cpu().mul(full).round_().clamp_(0, full)
    return np.ascontiguousarray(values.permute(1, 2, 0).numpy()[..., ::-1].astype(dtype))


def encode_png(image: Tensor, photo: Photo) -> bytes:
    """PNG bytes of RGB [3, H, W] in [0, 1] with the depth, greyness and alpha of photo."""
    from ibnvision.data.opencv import cv2

    if photo.grey:
        luma = image.new_tensor(_LUMA)[:, None, None]
        image = (image * luma).sum(0, keepdim=True).expand(3, -1, -1)
    pixels = to_pixels(image, photo.full)
    if photo.grey:
        pixels = pixels[..., 0]
    elif photo.alpha is not None:
        pixels = np.dstack((pixels, photo.alpha))
    return cv2.imencode(".png", pixels)[1].tobytes()


def _upright_alpha(stored: Any, upright: Any) -> Any:
    """The alpha channel of `stored`, turned as its colours were to become `upright`."""
    mirrored = (stored, stored[:, ::-1])
    turned = (np.rot90(pixels, quarters) for pixels in mirrored for quarters in range(4))
    found = next((a for a in turned if np.array_equal(a[..., :3], upright)), None)
    if found is None:
        raise ValueError("the alpha channel does not fit the colours of the picture")
    return np.ascontiguousarray(found[..., 3])
