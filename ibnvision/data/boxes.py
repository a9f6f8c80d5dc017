"""Boxes of one picture, whatever the format they come from: names, order, clipping, cropping.

Everywhere in this room a box is x0, y0, x1, y1 in pixels of its picture, from 0, and its ends are
exclusive: a box of one pixel at the corner is (0, 0, 1, 1), the width is x1 - x0.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from .crop import Span

EMPTY = {"keep": "kept", "drop": "dropped"}  # as asked for -> in facts
LEAST_SHARE = 0.3  # of its area that a box must keep in a crop
LEAST_PX = 1.0  # side that a box must keep in a crop


class Row(NamedTuple):
    """One object as its file describes it. area: in pixels, None where the file has none."""

    xyxy: tuple[float, float, float, float]
    name: str
    ignore: bool = False
    area: float | None = None


class Boxes(NamedTuple):
    """The objects of a picture: xyxy float32 [n, 4], labels int64 [n] from 1, ignore bool [n] (they
    neither count nor harm, and are not trained on), area float32 [n] in pixels.
    """

    xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    area: np.ndarray

    def those(self, which: np.ndarray) -> "Boxes":
        """The boxes of a mask bool [n]."""
        return Boxes(*(column[which] for column in self))


class Annotation(NamedTuple):
    """What the file of a picture says. size: (height, width), None where it has none. left_out:
    how many objects of which name are no class. problems: a sentence each.
    """

    boxes: Boxes
    size: tuple[int, int] | None = None
    left_out: Mapping[str, int] = {}
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class ClassNames:
    """The classes of a set, and how its files spell them; case, "_", "-" and blanks do not matter.

    Args:
        classes: in the order of the labels.
        spellings: further name -> class.
        ignored: name -> class under whose label such objects are ignored.
        unused: further names that the set is known to hold; any other one is a problem.

    Raises: ValueError for classes that differ in nothing else.
    """

    classes: tuple[str, ...]
    spellings: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(map(plain, self.classes))) < len(self.classes):
            raise ValueError(
                "classes must differ in more than case, '_', '-' and blanks, got "
                f"{', '.join(self.classes)}"
            )

    @cached_property
    def _table(self) -> dict[str, tuple[int, bool]]:
        own = {name: name for name in self.classes}
        rows = [(own, False), (self.spellings, False), (self.ignored, True)]
        return {
            plain(name): (self.classes.index(target) + 1, ignore)
            for names, ignore in reversed(rows)
            for name, target in names.items()
        }

    def label(self, name: str) -> tuple[int, bool] | None:
        """(label, whether to ignore it), None for a name that is no class."""
        return self._table.get(plain(name))

    @cached_property
    def _unused(self) -> frozenset[str]:
        return frozenset(map(plain, self.unused))

    def strange(self, name: str) -> bool:
        """Whether the set is not known to hold such objects."""
        return plain(name) not in self._table and plain(name) not in self._unused

    def words(self) -> str:
        """What decides the labels, to record beside a number."""
        more = [f"{name} = {to}" for name, to in self.spellings.items()]
        more += [f"{name} ignored as {to}" for name, to in self.ignored.items()]
        return ", ".join(self.classes) + (f" ({', '.join(more)})" if more else "")


def plain(name: str) -> str:
    """A class name as names are compared."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def annotation(
    rows: Iterable[Row], names: ClassNames, where: str, size: tuple[int, int] | None = None
) -> Annotation:
    """The objects of a picture. Those of no class, and boxes without extent, are left out; `where`
    says in the sentences about them which file it is.
    """
    kept: list[tuple[Row, int, bool]] = []
    left_out: Counter[str] = Counter()
    problems = []
    for row in rows:
        found = names.label(row.name)
        x0, y0, x1, y1 = row.xyxy
        if found is None:
            left_out[row.name] += 1
            if names.strange(row.name):
                problems.append(
                    f"{where} holds the class {row.name!r}, which is none of "
                    f"{', '.join(names.classes)}: left out"
                )
        elif not all(map(math.isfinite, row.xyxy)) or x1 <= x0 or y1 <= y0:
            left_out["boxes without extent"] += 1
            problems.append(f"{where} has a box without extent, {_words(row.xyxy)}: left out")
        else:
            kept.append((row, found[0], found[1] or row.ignore))
    xyxy = np.array([row.xyxy for row, _, _ in kept], np.float32).reshape(-1, 4)
    given = [math.nan if row.area is None else row.area for row, _, _ in kept]
    area = np.array(given, np.float32)
    boxes = Boxes(
        xyxy,
        np.array([label for _, label, _ in kept], np.int64),
        np.array([ignore for _, _, ignore in kept], bool),
        np.where(np.isnan(area), areas(xyxy), area),
    )
    return Annotation(boxes, size, left_out, tuple(dict.fromkeys(problems)))


def areas(xyxy: np.ndarray) -> np.ndarray:
    """Width x height of boxes float32 [n, 4]."""
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


def clip(boxes: Boxes, height: int, width: int) -> Boxes:
    """The boxes cut to a picture; those outside it are gone. The area of a box that the picture
    cuts shrinks by the same share.
    """
    xyxy = boxes.xyxy.clip(0, np.array([width, height, width, height], np.float32))
    inside = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    cut, whole = areas(xyxy), areas(boxes.xyxy)
    area = np.where(cut == whole, boxes.area, boxes.area * cut / whole).astype(np.float32)
    return boxes._replace(xyxy=xyxy, area=area).those(inside)


def crop(
    boxes: Boxes, shape: Sequence[int], scaled: tuple[int, int], spans: Sequence[Span]
) -> Boxes:
    """The boxes of a picture of `shape` in a part of it, as `crop.draw_window` chose it; gone are
    those that keep less than LEAST_SHARE of their area or a side below LEAST_PX.
    """
    height, width = (max(-start, 0) + stop - max(start, 0) for start, stop in spans)
    factor = np.array([scaled[1] / shape[1], scaled[0] / shape[0]] * 2, np.float32)
    first = np.array([spans[1][0], spans[0][0]] * 2, np.float32)
    moved = boxes._replace(
        xyxy=boxes.xyxy * factor - first, area=boxes.area * (factor[0] * factor[1])
    )
    before = areas(moved.xyxy)
    cut = moved.xyxy.clip(0, np.array([width, height, width, height], np.float32))
    sides = np.minimum(cut[:, 2] - cut[:, 0], cut[:, 3] - cut[:, 1])
    stays = (sides >= LEAST_PX) & (areas(cut) >= LEAST_SHARE * before)
    return clip(moved.those(stays), height, width)


def outside(boxes: Boxes, shape: tuple[int, int], where: str, slack: float = 1.0) -> list[str]:
    """A sentence for each box that ends more than `slack` pixels outside a picture of `shape`."""
    height, width = shape
    ends = np.array([width, height], np.float32) + slack
    beyond = (boxes.xyxy[:, :2] < -slack) | (boxes.xyxy[:, 2:] > ends)
    return [
        f"{where} has the box {_words(box)} (x0, y0, x1, y1), which ends outside the picture of "
        f"{height}x{width} (height x width)"
        for box in boxes.xyxy[beyond.any(1)].tolist()
    ]


def target_of(boxes: Boxes, image_id: int) -> dict[str, torch.Tensor]:
    """The target of an item of detection, see `ibnvision.data`."""
    return {
        "boxes": torch.from_numpy(boxes.xyxy.copy()),
        "labels": torch.from_numpy(boxes.labels.copy()),
        "ignore": torch.from_numpy(boxes.ignore.copy()),
        "area": torch.from_numpy(boxes.area.copy()),
        "image_id": torch.tensor(image_id),
    }


def object_facts(sets: Sequence[Boxes], classes: Sequence[str]) -> dict[str, object]:
    """What is recorded of the boxes of a set: pictures that show none, and objects by class."""
    labels = np.concatenate([b.labels[~b.ignore] for b in sets] or [np.zeros(0, np.int64)])
    counts = np.bincount(labels, minlength=len(classes) + 1)[1:].tolist()
    return {
        "images_without_objects": sum(not (~boxes.ignore).any() for boxes in sets),
        "objects": dict(zip(classes, counts, strict=True)),
        "ignored_objects": int(sum(boxes.ignore.sum() for boxes in sets)),
    }


def check_empty(empty: str) -> str:
    """`empty` itself; ValueError for what is none of EMPTY."""
    if empty not in EMPTY:
        raise ValueError(f"empty must be one of {', '.join(EMPTY)}, got {empty!r}")
    return empty


def _words(xyxy: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in xyxy)
