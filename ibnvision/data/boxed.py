"""Pictures on disk with boxes as items of detection."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from .boxes import (
    EMPTY,
    Annotation,
    Boxes,
    ClassNames,
    check_empty,
    clip,
    crop,
    object_facts,
    outside,
    target_of,
)
from .crop import cut, draw_window
from .item import detection_item
from .labelled import COLOR, sha256
from .opencv import read_picture
from .paired import digest, evenly


class Record(NamedTuple):
    """A picture, the file that describes it (may be shared, or missing where a set allows it), and
    its number in the set.
    """

    image: Path
    source: Path
    image_id: int


class Boxed(Dataset):
    """Pictures with boxes as items of image, target and domain; see `ibnvision.data`.

    Pictures keep their size; they are read when asked for and not kept, boxes are kept. Nothing is
    turned by EXIF, as boxes are not. Boxes are cut to their picture.

    Args:
        domain: goes into every item.
        records: one for each picture; `limit` keeps that many, evenly spaced.
        read: a record -> its objects; a ValueError says what is wrong with a file.
        names: the classes; recorded.
        home: the folder that holds the files; names are recorded relative to it.
        split: which part of the set this is, in words.
        convention: how the files of this format count pixels, in words.
        empty: "keep" pictures without an object that counts, or "drop" them (before `limit`), as
            some published numbers do; reads all files that describe pictures.
        notes: sentences to record beside a number, such as what was left out.
        problems: sentences about the files as a whole, for `check`.

    Raises ValueError (no pictures, limit, empty); on reading, for a file that is no picture and
    what `read` raises.
    """

    protocol = "native"

    def __init__(
        self,
        domain: str,
        records: Sequence[Record],
        read: Callable[[Record], Annotation],
        *,
        names: ClassNames,
        home: Path,
        split: str,
        convention: str,
        empty: str = "keep",
        limit: int | None = None,
        notes: Sequence[str] = (),
        problems: Sequence[str] = (),
    ):
        self.domain, self.home, self.names = domain, home, names
        self.empty = check_empty(empty)
        self._read, self._split, self._convention = read, split, convention
        self._notes, self._problems = list(notes), tuple(problems)
        self._found: dict[tuple[Path, int], Annotation] = {}
        if empty == "drop":
            shown = [r for r in records if (~self.annotation(r).boxes.ignore).any()]
            gone, count = len(records) - len(shown), len(records)
            self._notes.append(f"{gone} of {count} images dropped, which show no object")
            records = shown
        self.records = evenly(records, limit, f"{domain} ({split}) has no images in {str(home)!r}")
        if len(self.records) < len(records):
            self._notes.append(f"{len(self.records)} of {len(records)} images, evenly spaced")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def files(self) -> list[tuple[Path, Path]]:
        """(picture, file that describes it) of each item."""
        return [(record.image, record.source) for record in self.records]

    def annotation(self, record: Record) -> Annotation:
        """What the files say of a record, not yet cut to its picture."""
        key = (record.image, record.image_id)
        if key not in self._found:
            self._found[key] = self._read(record)
        return self._found[key]

    def _load(self, index: int) -> tuple[np.ndarray, Boxes]:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        record = self.records[index]
        image = np.ascontiguousarray(read_picture(record.image, COLOR)[..., ::-1])
        return image, clip(self.annotation(record).boxes, *image.shape[:2])

    def picture(self, index: int) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Image uint8 [H, W, 3] RGB and target of item `index`."""
        image, boxes = self._load(index)
        return image, target_of(boxes, self.records[index].image_id)

    def __getitem__(self, index: int) -> dict:
        return detection_item(*self.picture(index), self.domain)

    def draw(
        self,
        index: int,
        generator: torch.Generator,
        size: tuple[int, int],
        *,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> dict:
        """A random part of `size` (height, width) of item `index` for training, chosen as by
        `crop.draw_crop`, with the boxes that `boxes.crop` leaves in it.
        """
        image, boxes = self._load(index)
        scaled, spans = draw_window(image.shape[:2], generator, size, scale=scale)
        boxes = crop(boxes, image.shape[:2], scaled, spans)
        target = target_of(boxes, self.records[index].image_id)
        return detection_item(cut(image, scaled, spans, size), target, self.domain)

    def facts(self) -> dict[str, Any]:
        """What a number measured on this set means: plain values to store beside it. Reads all
        files that describe pictures.
        """
        found = [self.annotation(record) for record in self.records]
        left_out: Counter[str] = Counter()
        for annotation in found:
            left_out.update(annotation.left_out)
        return {
            "protocol": self.protocol,
            "input": "native size",
            "label_map": self.names.words(),
            "box_convention": self._convention,
            "split": self._split,
            "images": len(self),
            "empty_images": EMPTY[self.empty],
            **object_facts([annotation.boxes for annotation in found], self.names.classes),
            "left_out": dict(sorted(left_out.items())),
            "files_sha256": self._files_sha256(),
            "annotations_sha256": self._annotations_sha256,
            "notes": list(self._notes),
        }

    def fingerprint(self) -> str:
        """SHA-256 of what is evaluated: names and sizes of the pictures, bytes of what describes
        them, the classes.
        """
        facts = [self._files_sha256(), self._annotations_sha256, self.names.words()]
        return sha256([*facts, self._convention])

    def check(
        self, size: tuple[int, int] | None = None, indices: Iterable[int] | None = None
    ) -> list[str]:
        """Reads the pictures and boxes (those of `indices`; default: all) and returns what is
        wrong, a sentence for each problem. A crop may be larger than a picture, so `size` does not
        matter.
        """
        problems = list(self._problems)
        for index in range(len(self)) if indices is None else indices:
            problems += self._problems_of(self.records[index])
        return problems

    def _problems_of(self, record: Record) -> list[str]:
        problems: list[str] = []
        shape: tuple[int, int] | None = None
        try:
            picture = read_picture(record.image, COLOR)
            shape = picture.shape[0], picture.shape[1]
        except (ValueError, OSError) as error:
            problems.append(str(error))
        try:
            found = self.annotation(record)
        except (ValueError, OSError) as error:
            return [*problems, str(error)]
        problems += found.problems
        if shape is None:
            return problems
        if found.size is not None and found.size != shape:
            problems.append(
                f"{str(record.source)!r} describes a picture of {found.size[0]}x{found.size[1]} "
                f"(height x width), but {str(record.image)!r} is {shape[0]}x{shape[1]}"
            )
        where = f"{str(record.source)!r} ({record.image.name})"
        return problems + outside(found.boxes, shape, where)

    def _files_sha256(self) -> str:
        images = (record.image for record in self.records)
        return sha256([[self._relative(path), path.stat().st_size] for path in images])

    @cached_property
    def _annotations_sha256(self) -> str:
        sources = dict.fromkeys(record.source for record in self.records)
        return sha256([[self._relative(p), digest(p) if p.is_file() else ""] for p in sources])

    def _relative(self, path: Path) -> str:
        """Its name below home; a COCO file may name pictures elsewhere by their whole path."""
        inside = path.is_relative_to(self.home)
        return path.relative_to(self.home).as_posix() if inside else path.name
