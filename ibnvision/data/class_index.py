"""Where each class is, so that training crops can be drawn class by class.

Half of the crops of RobustNet's recipe are class-uniform: a class is drawn, then one of the places
where it was seen, and the crop contains that place (`draw` with `centre`). A place is the centroid
of the class's pixels in one tile of a grid; it need not lie on the class itself.

After Zhu et al., CVPR 2019, https://arxiv.org/abs/1812.01593, as used by Choi et al., CVPR 2021.
Differs: tiles at the right and lower edge that are cut off count, so that the grid covers the
picture; there a GTAV image is one tile of 1024x1024, and a BDD100K image none.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .opencv import cv2

_KEYS = ("image", "y", "x", "start")


def class_index(
    dataset: Any,
    classes: int,
    tile: int = 1024,
    watch: Callable[[range], Iterable[int]] = iter,
) -> dict[str, np.ndarray]:
    """The places of every class in a set.

    Args:
        dataset: has `label(i)`, uint8 [H, W], as the real sets have, or `picture(i)`.
        classes: values 0 to classes - 1 are listed.
        tile: side of a tile in pixels.
        watch: is handed the indices before they are read, to show progress.

    Returns {"image", "y", "x": int32 [N], "start": int64 [classes + 1]}: the places of class c are
    at start[c]:start[c + 1], in pixels of the image. Raises ValueError for classes or a tile below
    1, and what reading raises.
    """
    if classes < 1 or tile < 1:
        raise ValueError(f"classes and tile must be at least 1, got {classes} and {tile}")
    rows: list[tuple[int, int, int, int]] = []  # class, image, y, x
    for number in watch(range(len(dataset))):
        label = dataset.label(number) if hasattr(dataset, "label") else dataset.picture(number)[1]
        rows += [(c, number, y, x) for c, y, x in centroids(label, classes, tile)]
    table = np.array(rows, np.int32).reshape(-1, 4)
    table = table[np.argsort(table[:, 0], kind="stable")]
    start = np.searchsorted(table[:, 0], np.arange(classes + 1)).astype(np.int64)
    columns = {key: table[:, i].copy() for i, key in enumerate(("image", "y", "x"), start=1)}
    return {**columns, "start": start}


def centroids(label: np.ndarray, classes: int, tile: int) -> Iterator[tuple[int, int, int]]:
    """(class, y, x) of each class in each tile of a label uint8 [H, W], rounded down."""
    for top in range(0, label.shape[0], tile):
        for left in range(0, label.shape[1], tile):
            part = np.ascontiguousarray(label[top : top + tile, left : left + tile])
            present = np.bincount(part.ravel(), minlength=classes)[:classes]
            for c in np.flatnonzero(present):
                mask = (part == c).view(np.uint8)
                yield int(c), top + _mean(mask, 1), left + _mean(mask, 0)


def _mean(mask: np.ndarray, axis: int) -> int:
    """Mean row (axis 1) or column (axis 0) of the pixels that are not 0, rounded down."""
    sums = cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    return int(sums @ np.arange(len(sums))) // int(sums.sum())


def save_index(path: str | Path, index: Mapping[str, np.ndarray], fingerprint: str) -> None:
    """Write an index as .npz; the file appears under its name only when complete.

    fingerprint: of all that the index depends on: the set, the classes and the tile.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {key: index[key] for key in _KEYS}
    handle, stage = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), **content)
        os.replace(stage, path)
    except BaseException:
        Path(stage).unlink(missing_ok=True)
        raise


def load_index(path: str | Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    """The index in a file, None where there is none or it has another fingerprint.

    Raises ValueError for a file that is no index.
    """
    if not Path(path).is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            return {key: file[key] for key in _KEYS}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} must be an index of classes ({error}): delete it, it is made anew"
        ) from error


def draw_centre(
    index: Mapping[str, np.ndarray], generator: torch.Generator
) -> tuple[int, tuple[int, int]]:
    """(image index, (y, x)): a class drawn among those that occur, then one of its places.

    Raises ValueError for an index without places.
    """
    start = index["start"]
    present = np.flatnonzero(np.diff(start))
    if not len(present):
        raise ValueError("the index must hold a place of at least one class, got none")
    c = int(present[_below(len(present), generator)])
    at = int(start[c]) + _below(int(start[c + 1] - start[c]), generator)
    return int(index["image"][at]), (int(index["y"][at]), int(index["x"][at]))


def _below(stop: int, generator: torch.Generator) -> int:
    return int(torch.randint(stop, (), generator=generator))
