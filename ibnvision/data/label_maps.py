"""Which trainId of Cityscapes each value of a label file means, and how label files are read.

    labels = decode(path, LABEL_MAPS["cityscapes_ids"])      uint8 [H, W], trainIds and 255

The two maps of Mapillary Vistas v1.2 differ in eleven ids: `mapillary_robustnet` is that of
RobustNet (CVPR 2021), SHADE, HGFormer and BlindNet, `mapillary_rein` that of Rein (CVPR 2024) and
SoMA. Numbers under the one and the other cannot be compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from .names import CITYSCAPES, IGNORED, palette
from .opencv import cv2, read_picture


@dataclass(frozen=True)
class LabelMap:
    """The values of a set's label files: `ids` has the trainId of those that are scored, `ignored`
    lists the others. Any further value is the sign of another file.
    """

    name: str
    ids: Mapping[int, int]
    ignored: frozenset[int] = frozenset((IGNORED,))

    @cached_property
    def table(self) -> np.ndarray:
        """Value -> trainId, int16 [256]; -1 for a value that is neither in `ids` nor ignored."""
        table = np.full(256, -1, np.int16)
        table[list(self.ignored)] = IGNORED
        table[list(self.ids)] = list(self.ids.values())
        return table


def _label_map(name: str, ids: Mapping[int, int], values: Iterable[int]) -> LabelMap:
    return LabelMap(name, ids, frozenset((IGNORED, *values)) - frozenset(ids))


_IDS = dict(
    zip(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        range(19),
        strict=True,
    )
)
_VISTAS = {
    **{13: 0, 15: 1, 2: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10},
    **{19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18, 24: 0},
}
_VISTAS_REIN = {
    **{7: 0, 8: 0, 10: 0, 14: 0, 23: 0},  # bike lane, crosswalk, parking, service lane, its marking
    **{
        9: 1,
        11: 1,
        44: 5,
        46: 7,
        49: 7,
    },  # curb cut, pedestrian area, street light, sign frame, back
}
_SYNTHIA = {
    **{1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17, 15: 6},
    **{16: 9, 17: 12, 18: 14, 19: 15, 20: 16, 21: 3},
}
LABEL_MAPS = {
    row.name: row
    for row in (
        _label_map("train_ids", {i: i for i in range(19)}, ()),
        _label_map("cityscapes_ids", _IDS, range(34)),
        _label_map("gtav_ids", _IDS, range(35)),  # 34 is the licence plate
        _label_map("synthia_ids", _SYNTHIA, range(23)),
        _label_map("urbansyn_ids", {i: i for i in range(19)}, (19,)),
        _label_map("mapillary_robustnet", {**_VISTAS, 41: 0}, range(66)),  # 41 is a manhole
        _label_map("mapillary_rein", {**_VISTAS, **_VISTAS_REIN}, range(66)),
    )
}


def decode(path: Path, label_map: LabelMap) -> np.ndarray:
    """TrainIds uint8 [H, W] of a label file of 8-bit values, plain or with a palette.

    A file whose name says so (`*_labelTrainIds.png`, `*_train_id.png`) holds them already. Raises
    ValueError for another kind of file and for a value that the map does not know.
    """
    chosen = LABEL_MAPS["train_ids"] if _converted(path) else label_map
    return to_train_ids(read_values(path), chosen, path)


def decoder(name: str) -> Callable[[Path], np.ndarray]:
    """`decode` by the map of that name."""
    return partial(decode, label_map=LABEL_MAPS[name])


def decode_gtav(path: Path) -> np.ndarray:
    """As `decode` for GTAV, whose labels are a palette with the ids or the colours themselves.

    Of colours, those of the 19 classes count and all others are ignored; a licence plate has the
    colour of a car, so only the palette tells it apart.
    """
    values = read_values(path, colors=not _converted(path))
    if values.ndim == 3:
        return from_colors(values, palette(CITYSCAPES))
    return to_train_ids(values, LABEL_MAPS["train_ids" if _converted(path) else "gtav_ids"], path)


def decode_synthia(path: Path) -> np.ndarray:
    """As `decode` for SYNTHIA: 16-bit RGB, the class in the first channel."""
    if _converted(path):
        return decode(path, LABEL_MAPS["train_ids"])
    picture = read_picture(path, cv2.IMREAD_UNCHANGED)
    if picture.ndim != 3 or picture.dtype != np.uint16:
        raise ValueError(
            f"label {str(path)!r} must be a 16-bit RGB PNG, as SYNTHIA publishes GT/LABELS, got "
            f"{picture.dtype} of shape {list(picture.shape)}"
        )
    return to_train_ids(picture[..., 2], LABEL_MAPS["synthia_ids"], path)  # OpenCV gives BGR


def read_values(path: Path, *, colors: bool = False) -> np.ndarray:
    """The values of an 8-bit label file, uint8 [H, W]: of a palette the indices, not its colours.

    colors: a file of colours is allowed, uint8 [H, W, 3] RGB. Raises ValueError for another kind
    of file or one that cannot be read.
    """
    from PIL import Image  # OpenCV replaces the indices of a palette by its colours

    try:
        with Image.open(path) as picture:
            if picture.mode in ("L", "P"):
                return np.array(picture)
            if colors and picture.mode in ("RGB", "RGBA"):
                return np.array(picture)[..., :3]
            kind = picture.mode
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read {str(path)!r} as a picture: {error}") from error
    wanted = ", or RGB" if colors else ""
    raise ValueError(
        f"label {str(path)!r} must hold one 8-bit value a pixel, plain or with a palette{wanted}, "
        f"got mode {kind}"
    )


def to_train_ids(values: np.ndarray, label_map: LabelMap, path: Path) -> np.ndarray:
    """Values [H, W] by the map as uint8 [H, W]; ValueError naming the file for unknown ones."""
    if values.size and values.max() > 255:
        raise ValueError(_strange(path, label_map, [int(v) for v in np.unique(values) if v > 255]))
    labels = label_map.table[values]
    if labels.size and labels.min() < 0:
        raise ValueError(_strange(path, label_map, np.unique(values[labels < 0]).tolist()))
    return labels.astype(np.uint8)


def from_colors(picture: np.ndarray, colors: np.ndarray, unknown: int = IGNORED) -> np.ndarray:
    """Index uint8 [H, W] of each pixel's colour, uint8 [H, W, 3], among `colors`, uint8 [K, 3];
    `unknown` where it is none of them.
    """
    keys, pixels = _packed(colors), _packed(picture)
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], pixels).clip(max=len(keys) - 1)
    index = order.astype(np.uint8)[place]
    index[keys[order][place] != pixels] = unknown
    return index


def _converted(path: Path) -> bool:
    return path.stem.lower().endswith(("_labeltrainids", "_train_id"))


def _packed(colors: np.ndarray) -> np.ndarray:
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _strange(path: Path, label_map: LabelMap, values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8])) + ", ..." * (len(values) > 8)
    return (
        f"label {str(path)!r} holds the values {shown}, which the map {label_map.name!r} does not "
        "know: is it the label of another set or version, or a colour picture?"
    )
