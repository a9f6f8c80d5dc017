"""Cityscapes and Foggy Cityscapes with boxes around the instances of eight classes.

Folders are those of `cityscapes`. A box is the tight rectangle of the pixels of one instance in
`*_gtFine_instanceIds.png` (16 bits, class id x 1000 + number), so it holds visible parts only. A
value below 1000 of these classes is a group that nobody told apart: a box around each of its
connected regions, ignored. Frames without objects stay.

`cityscapes_foggy_005`, `_01`, `_02` are one density of fog each, `cityscapes_foggy_all_boxes` all
three with the same boxes (1500 images of val, not 500): numbers on them cannot be compared, and
published ones are of 02 alone or of all. `cityscapes_car_boxes` has the cars only, as where the
source is Sim10k. As in all published numbers `test` is the official val, and so is `val`.

Cordts et al., CVPR 2016, https://arxiv.org/abs/1604.01685; Sakaridis et al., IJCV 2018,
https://arxiv.org/abs/1708.07819. For research; not in this package.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from .boxed import Boxed, Record
from .boxes import Annotation, ClassNames, Row, annotation
from .cityscapes import CLEAR, FOGGY, HOMES, LABELS
from .label_files import OFFICIAL, Pair, check_split, label_pairs
from .layout import find_labelled
from .names import CITYSCAPES_THINGS, known
from .opencv import cv2, read_picture

IDS = dict(zip((24, 25, 26, 27, 28, 31, 32, 33), CITYSCAPES_THINGS, strict=True))
INSTANCES = 1000  # values from here on are instances
CONVENTION = "tight rectangles of instanceIds, visible parts"
FOG = {"005": "0.005", "01": "0.01", "02": "0.02"}
# domain -> folders of images, ends of the stems of its images, classes, densities of fog
DOMAINS: dict[str, tuple[Sequence[str], Sequence[str], tuple[str, ...], Sequence[str]]] = {
    "cityscapes_boxes": (CLEAR, ["_leftImg8bit"], CITYSCAPES_THINGS, []),
    "cityscapes_car_boxes": (CLEAR, ["_leftImg8bit"], ("car",), []),
    **{
        f"cityscapes_foggy_{name}_boxes": (
            FOGGY,
            [f"_leftImg8bit_foggy_beta_{beta}" for beta in betas],
            CITYSCAPES_THINGS,
            betas,
        )
        for name, betas in (*((k, [v]) for k, v in FOG.items()), ("all", [*FOG.values()]))
    },
}


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """A domain of DOMAINS, read from `root`; layouts and splits as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, an image without
    instances) and ValueError (split, limit, empty).
    """
    images, ends, classes, betas = DOMAINS[known("domain", domain, DOMAINS)]
    check_split(domain, split, OFFICIAL)
    folder, words = OFFICIAL[split]
    folders = [(i.format(folder), label.format(folder)) for i in images for label in LABELS]
    place = find_labelled(f"{domain} ({folder})", root, folders, HOMES)
    files: list[Pair] = []
    for end in ends:
        files += label_pairs(place, lambda frame: [f"{frame}_gtFine_instanceIds.png"], end=end)
    names = ClassNames(classes, unused=CITYSCAPES_THINGS)
    return Boxed(
        domain,
        [Record(*pair, image_id=number) for number, pair in enumerate(files)],
        partial(_annotation, names=names),
        names=names,
        home=place.home,
        split=words,
        convention=CONVENTION,
        empty=empty,
        limit=limit,
        notes=[f"fog of density {', '.join(betas)}"] if betas else [],
    )


def _annotation(record: Record, names: ClassNames) -> Annotation:
    rows, size = read(record.source)
    return annotation(rows, names, repr(str(record.source)), size)


def read(path: Path) -> tuple[list[Row], tuple[int, int]]:
    """The objects of an instanceIds file and its (height, width); kept in memory until the file
    changes, as three densities of fog share it.

    Raises ValueError for a file that is not of this format.
    """
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, *_: int) -> tuple[list[Row], tuple[int, int]]:
    from scipy.ndimage import find_objects

    values = read_picture(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{str(path)!r} must hold one 16-bit value a pixel, as Cityscapes publishes "
            f"instanceIds, got {values.dtype} of shape {list(values.shape)}"
        )
    counts = np.bincount(values.ravel(), minlength=INSTANCES)
    found = [int(value) for value in np.flatnonzero(counts) if _id(int(value)) in IDS]
    rows = []
    numbers = np.zeros(len(counts), np.int32)
    instances = [value for value in found if value >= INSTANCES]
    numbers[instances] = range(1, len(instances) + 1)
    spans = find_objects(numbers[values], len(instances))
    for value, (ys, xs) in zip(instances, spans, strict=True):
        box = (float(xs.start), float(ys.start), float(xs.stop), float(ys.stop))
        rows.append(Row(box, IDS[_id(value)], area=float(counts[value])))
    for value in found:
        if value < INSTANCES:
            rows += _groups(values == value, IDS[value])
    return rows, (int(values.shape[0]), int(values.shape[1]))


def _id(value: int) -> int:
    return value // INSTANCES if value >= INSTANCES else value


def _groups(mask: np.ndarray, name: str) -> list[Row]:
    """An ignored box around each connected region of a mask bool [H, W]."""
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [
        Row((float(x), float(y), float(x + w), float(y + h)), name, ignore=True, area=float(area))
        for x, y, w, h, area in regions[1:].tolist()
    ]
