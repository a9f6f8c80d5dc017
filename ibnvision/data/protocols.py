"""How a real segmentation set is shown to a network and scored: the two published ways.

A protocol has a row for each kind of set, the row "" for all others. Mean IoU under one protocol
cannot be compared with that under the other: Fahes et al. (FAMix, CVPR 2024) report 1.6 to 6.6 mIoU
between full and half size with one set of weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .names import IGNORED, known
from .resize import fit, resize, resize_label

Picture = np.ndarray  # image uint8 [H, W, 3] RGB, label uint8 [H, W]


class Row(NamedTuple):
    """What is done to one kind of set.

    Args:
        input: in words, for the record of a number.
        view: (image, label) at native size -> (input, target), which may differ in size.
        note: how it differs from the published code, or "".
    """

    input: str
    view: Callable[[Picture, Picture], tuple[Picture, Picture]]
    note: str = ""


def _whole(image: Picture, label: Picture) -> tuple[Picture, Picture]:
    return image, label


def _cityscapes(image: Picture, label: Picture) -> tuple[Picture, Picture]:
    return resize(image, (512, 1024), antialias=False), label


def _halved(image: Picture, label: Picture) -> tuple[Picture, Picture]:
    half = (max(1, image.shape[0] // 2), max(1, image.shape[1] // 2))
    return resize(image, half, antialias=False), label


def _halved_and_fitted(image: Picture, label: Picture) -> tuple[Picture, Picture]:
    half = (max(1, image.shape[0] // 2), max(1, image.shape[1] // 2))
    image, label = resize(image, half, antialias=True), resize_label(label, half)
    return resize(image, fit(half, 512, 1024), antialias=False), label


def _centre_square(image: Picture, label: Picture) -> tuple[Picture, Picture]:
    side = 1536
    size = (side, max(1, int(image.shape[1] / image.shape[0] * side)))
    image, label = resize(image, size, antialias=True), resize_label(label, size)
    left = round((size[1] - side) / 2)
    if left >= 0:
        return image[:, left : left + side], label[:, left : left + side]
    columns = (-left, side - size[1] + left)
    image = np.pad(image, ((0, 0), columns, (0, 0)))
    return image, np.pad(label, ((0, 0), columns), constant_values=IGNORED)


# native: Choi et al., RobustNet, CVPR 2021, and what was built on its code: the whole image, once.
# half: Wei et al., Rein, CVPR 2024, and what was built on its configs: the input shrinks, windows
# slide over it, scores are scaled back to the labels.
PROTOCOLS: dict[str, dict[str, Row]] = {
    "native": {
        "": Row("native size, whole image", _whole),
        "mapillary": Row(
            "image and label at height 1536, centre 1536x1536",
            _centre_square,
            "beside images narrower than 1536 the label is 255; RobustNet counts those columns as "
            "class 0, road, and shows the image off the centre",
        ),
    },
    "half": {
        "": Row("half of each side, target at native size", _halved),
        "cityscapes": Row("1024x512, target at native size", _cityscapes),
        "bdd100k": Row("native size (1280x720)", _whole),
        "mapillary": Row(
            "image and label halved, then the image inside 1024x512",
            _halved_and_fitted,
            "the halved image is not compressed as JPEG in between, as Rein's is",
        ),
    },
}


def row_of(protocol: str, kind: str) -> Row:
    """The row of a kind of set; KeyError for an unknown protocol."""
    rows = PROTOCOLS[known("protocol", protocol, PROTOCOLS)]
    return rows.get(kind, rows[""])
