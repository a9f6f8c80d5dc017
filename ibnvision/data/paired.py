"""Hazy pictures with clear ones of the same view as items of a restoration task."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .item import restoration_item, to_image
from .opencv import cv2, read_picture
from .pairing import Pair
from .view import draw_view


def read_rgb(path: Path) -> np.ndarray:
    """A picture file, upright by its EXIF orientation, as RGB [H, W, 3], uint8 or uint16.

    Raises ValueError for a file that is no such picture.
    """
    picture = read_picture(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if picture.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{str(path)!r} must have 8 or 16 bits a channel, got {picture.dtype}")
    return picture[..., ::-1]


class Paired(Dataset):
    """Pairs as items {"image": hazy, "target": clear, "domain": domain}; see `ibnvision.data`.

    Pictures keep their size; they are read when asked for and not kept. `border`: a clear picture
    that is larger by that many pixels on each of its four sides is cut down to the hazy one; any
    other difference in size is an error. `limit` keeps that many pairs, evenly spaced.

    Raises ValueError for no pairs and a limit below 1; on reading, for a file that is no picture
    and for sizes that differ.
    """

    def __init__(
        self, domain: str, pairs: Sequence[Pair], *, border: int = 0, limit: int | None = None
    ):
        self.domain, self.border = domain, border
        self.pairs = evenly(pairs, limit, f"{domain} has no pairs")

    def __len__(self) -> int:
        return len(self.pairs)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Hazy and clear picture of item `index`, uint8 [H, W, 3] RGB; 16 bits are rounded."""
        hazy, clear = self._read(index)
        return _bytes(hazy), _bytes(clear)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        return restoration_item(*self._read(index), self.domain)

    def draw(self, index: int, generator: torch.Generator, size: tuple[int, int]) -> dict:
        """A random view of pair `index` for training: a crop of `size` (height, width), the same
        of both pictures, turned by quarters if it is square, and mirrored.

        `generator` is the only source of chance. Raises ValueError for a picture smaller than
        the crop.
        """
        pictures = self._read(index)
        try:
            view = draw_view(generator, pictures[0].shape[:2], size)
        except ValueError as error:
            raise ValueError(
                f"{str(self.pairs[index].hazy)!r}: {error}; train with a smaller size or take the "
                "pair out"
            ) from None
        return restoration_item(view.cut(pictures[0]), view.cut(pictures[1]), self.domain)

    def check(
        self, size: tuple[int, int] | None = None, indices: Iterable[int] | None = None
    ) -> list[str]:
        """Reads the pairs (those of `indices`; default: all) and returns what is wrong, a sentence
        for each problem; with `size` also the pictures that are smaller than such a crop.
        """

        def read(index: int) -> object:
            return self._read(index) if size is None else self.draw(index, torch.Generator(), size)

        return problems_of(read, range(len(self)) if indices is None else indices)

    def fingerprint(self) -> str:
        """SHA-256 of the names and bytes of all files and of the border rule; reads every file."""
        files = {
            path: digest(path) for path in dict.fromkeys(p for pair in self.pairs for p in pair)
        }
        facts = [[path.name, files[path]] for pair in self.pairs for path in pair]
        return hashlib.sha256(json.dumps([facts, self.border]).encode()).hexdigest()

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[index]
        hazy, clear = read_rgb(pair.hazy), read_rgb(pair.clear)
        (height, width), edge = hazy.shape[:2], self.border
        if edge and clear.shape[:2] == (height + 2 * edge, width + 2 * edge):
            clear = clear[edge : edge + height, edge : edge + width]
        if clear.shape != hazy.shape:
            rule = f", or {edge} pixels larger on each side" if edge else ""
            raise ValueError(
                f"clear {str(pair.clear)!r} must have the size of its hazy picture{rule}: it is "
                f"{clear.shape[0]}x{clear.shape[1]} (height x width), hazy {str(pair.hazy)!r} "
                f"{height}x{width}; take both from one version of the set, or cut them to one size"
            )
        return hazy, clear


class Unpaired(Dataset):
    """Hazy pictures without clear ones: {"image": float32 [3, H, W], "domain": ..., "name": file}.

    Such a set can be looked at and restored, not scored. `limit` and errors as `Paired`.
    """

    def __init__(self, domain: str, files: Sequence[Path], *, limit: int | None = None):
        self.domain = domain
        self.files = evenly(files, limit, f"{domain} has no pictures")

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> np.ndarray:
        """Picture `index`, uint8 [H, W, 3] RGB."""
        return _bytes(read_rgb(self.files[index]))

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        file = self.files[index]
        return {"image": to_image(read_rgb(file)), "domain": self.domain, "name": file.name}

    def check(
        self, size: tuple[int, int] | None = None, indices: Iterable[int] | None = None
    ) -> list[str]:
        """As `Paired.check`; nothing is cropped, so `size` does not matter."""
        indices = range(len(self)) if indices is None else indices
        return problems_of(lambda index: read_rgb(self.files[index]), indices)

    def fingerprint(self) -> str:
        """SHA-256 of the names and bytes of all files."""
        facts = [[file.name, digest(file)] for file in self.files]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def evenly(items: Sequence, limit: int | None, empty: str) -> list:
    """At most `limit` of the items, evenly spaced; ValueError for none, or a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not items:
        raise ValueError(empty)
    count = len(items) if limit is None else min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def problems_of(read: Callable[[int], object], indices: Iterable[int]) -> list[str]:
    problems = []
    for index in indices:
        try:
            read(index)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return problems


def _bytes(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(picture)


def digest(path: Path) -> str:
    """SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
