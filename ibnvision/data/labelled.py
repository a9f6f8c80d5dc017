"""Real images with label files as items of segmentation, under a named evaluation protocol."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .crop import draw_crop
from .item import segmentation_item
from .label_files import Pair
from .opencv import cv2, read_picture
from .paired import evenly, problems_of
from .protocols import row_of
from .resize import resize


class Labelled(Dataset):
    """Images and label files as items of image, target and domain; see `ibnvision.data`.

    Files are read when asked for and not kept.

    Args:
        domain: goes into every item.
        files: (image, label) pairs; `limit` keeps that many, evenly spaced.
        decode: label file -> trainIds uint8 [H, W], 255 where ignored; raises ValueError for
            values that are none of the set's.
        home: the folder that holds the files; names are recorded relative to it.
        label_map: the name under which the meaning of the labels is recorded, in LABEL_MAPS where
            they are Cityscapes classes.
        split: which part of the set this is, in words.
        kind: row of a protocol, see `protocols.PROTOCOLS`.
        protocol: name in PROTOCOLS; it decides what `__getitem__` gives.
        notes: sentences to record beside a number, such as what was left out.
        misfit: share of a side by which an image may differ from its label; such an image is
            resized to the label.

    Raises KeyError (protocol) and ValueError (no files, limit); on reading, ValueError for a file
    that is no picture and for an image that differs in size from its label by more than `misfit`.
    """

    def __init__(
        self,
        domain: str,
        files: Sequence[Pair],
        decode: Callable[[Path], np.ndarray],
        *,
        home: Path,
        label_map: str,
        split: str,
        kind: str = "",
        protocol: str = "native",
        limit: int | None = None,
        notes: Sequence[str] = (),
        misfit: float = 0.0,
    ):
        self.domain, self.home, self.protocol = domain, home, protocol
        self.row = row_of(protocol, kind)
        self.files = evenly(files, limit, f"{domain} ({split}) has no images in {str(home)!r}")
        self._decode, self._label_map, self._split = decode, label_map, split
        self._misfit = misfit
        self._notes = [*notes, *([self.row.note] if self.row.note else [])]
        if len(self.files) < len(files):
            self._notes.append(f"{len(self.files)} of {len(files)} images, evenly spaced")

    def __len__(self) -> int:
        return len(self.files)

    def label(self, index: int) -> np.ndarray:
        """TrainIds of item `index`, uint8 [H, W] at native size, without reading its image."""
        return self._decode(self.files[index][1])

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] RGB and trainIds uint8 [H, W] of item `index` at native size."""
        image, label = self._read(index, self._misfit)
        return np.ascontiguousarray(resize(image, label.shape, antialias=True)), label

    def _read(self, index: int, misfit: float) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        path, label_path = self.files[index]
        image, label = read_picture(path, COLOR)[..., ::-1], self.label(index)
        sides = zip(image.shape[:2], label.shape, strict=True)
        if any(abs(mine - other) > misfit * other for mine, other in sides):
            raise ValueError(
                f"image {str(path)!r} and label {str(label_path)!r} must have one size, got "
                f"{image.shape[0]}x{image.shape[1]} and {label.shape[0]}x{label.shape[1]} "
                "(height x width); take the pair out"
            )
        return image, label

    def __getitem__(self, index: int) -> dict:
        image, label = self.row.view(*self.picture(index))
        return segmentation_item(np.ascontiguousarray(image), label, self.domain)

    def draw(
        self,
        index: int,
        generator: torch.Generator,
        size: tuple[int, int],
        *,
        scale: tuple[float, float] = (1.0, 1.0),
        centre: tuple[int, int] | None = None,
    ) -> dict:
        """A random part of `size` (height, width) of item `index` for training, as `draw_crop`;
        the protocol plays no part.
        """
        image, label = self.picture(index)
        image, label = draw_crop(image, label, generator, size, scale=scale, centre=centre)
        return segmentation_item(image, label, self.domain)

    def facts(self) -> dict[str, Any]:
        """What a number measured on this set means: plain values to store beside it."""
        return {
            "protocol": self.protocol,
            "input": self.row.input,
            "label_map": self._label_map,
            "split": self._split,
            "images": len(self),
            "files_sha256": self._files_sha256(),
            "notes": list(self._notes),
        }

    def fingerprint(self) -> str:
        """SHA-256 of what is evaluated: names and sizes of the files, label map and protocol."""
        return sha256([self._files_sha256(), self._label_map, self.protocol])

    def check(
        self, size: tuple[int, int] | None = None, indices: Iterable[int] | None = None
    ) -> list[str]:
        """Reads the images and labels (those of `indices`; default: all) and returns what is
        wrong, a sentence for each problem, every difference in size among them. A crop may be
        larger than an image, so `size` does not matter.
        """
        read = partial(self._read, misfit=0.0)
        return problems_of(read, range(len(self)) if indices is None else indices)

    def _files_sha256(self) -> str:
        return sha256(
            [
                [path.relative_to(self.home).as_posix(), path.stat().st_size]
                for pair in self.files
                for path in pair
            ]
        )


# labels are not turned by EXIF, so images must not be either
COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
