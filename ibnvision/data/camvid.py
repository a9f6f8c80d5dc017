"""CamVid by sequence: real street frames by day and at dusk, with the labels of the shared classes.

Layout: `{train,val,test}/*.png` (or `.jpg`) with masks of the same stem in
`{train,val,test}annot/`, as in the SegNet tutorial; the folder that holds `CamVid/` will do as
well. The published split mixes dusk into train and test, so the domains go by sequence within it:

    camvid_day    train 0006R0 and 0016E5 (305), val 0016E5 at 15 Hz (101), test Seq05VD (171)
    camvid_dusk   train 0001TP (62), test 0001TP (62)

The val frames lie between frames of train, so they select a model but measure no new place.
Frames: Brostow et al., Pattern Recognition Letters 2009. Split and masks of eleven classes:
Badrinarayanan et al., PAMI 2017 (SegNet). CC BY-NC 4.0: for research only, not in this package.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from .item import segmentation_item
from .layout import contents
from .names import CLASSES, IGNORED, known
from .opencv import cv2, read_picture
from .paired import problems_of

ORIGINAL_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
)
VOID = 11
SHARED = {
    "sky": "sky",
    "building": "building",
    "pole": "pole",
    "road": "road",
    "pavement": "sidewalk",
    "tree": "vegetation",
    "car": "car",
    "pedestrian": "person",
}  # sign, fence, cyclist and void are ignored

# domain -> split -> (folder, sequences)
SPLITS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "camvid_day": {
        "train": ("train", ("0006R0", "0016E5")),
        "val": ("val", ("0016E5",)),
        "test": ("test", ("Seq05VD",)),
    },
    "camvid_dusk": {"train": ("train", ("0001TP",)), "test": ("test", ("0001TP",))},
}
SUFFIXES = (".png", ".jpg", ".jpeg")


def find_layout(root: str | Path) -> Path:
    """Folder that holds train/, trainannot/ and so on: root or root/CamVid.

    Raises FileNotFoundError that says what was looked for and what is there.
    """
    root = Path(root).expanduser()
    for folder in (root, root / "CamVid"):
        if any(
            (folder / s).is_dir() and (folder / f"{s}annot").is_dir() for s in ("train", "test")
        ):
            return folder
    raise FileNotFoundError(
        f"no CamVid in {str(root)!r}: looked for train/ and trainannot/, or test/ and testannot/, "
        f"there and in its CamVid/; {contents(root)}"
    )


def label_map(original_classes: bool) -> np.ndarray:
    """Table uint8 [256] from mask value to shared class, or to the eleven as they are."""
    table = np.full(256, IGNORED, np.uint8)
    for value, name in enumerate(ORIGINAL_CLASSES):
        if original_classes:
            table[value] = value
        elif name in SHARED:
            table[value] = CLASSES.index(SHARED[name])
    return table


class CamVid(Dataset):
    """One domain and split of CamVid as items of image, target and domain; see `ibnvision.data`.

    `size` is (height, width): area-averaged images, nearest masks, the aspect is not kept; None
    leaves the frames as they are. `limit` keeps that many frames, evenly spaced. With
    `original_classes` targets index ORIGINAL_CLASSES. Frames are read on first use and kept.

    Raises KeyError (domain), ValueError (split, limit, no frame, a mask that does not fit) and
    FileNotFoundError (layout, missing mask).
    """

    def __init__(
        self,
        domain: str,
        split: str,
        *,
        root: str | Path,
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        original_classes: bool = False,
    ):
        self.domain = known("domain", domain, SPLITS)
        if split not in SPLITS[domain]:
            raise ValueError(
                f"split of {domain} must be one of {', '.join(SPLITS[domain])}, got {split!r}"
            )
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.split, self.size = split, size
        self.layout = find_layout(root)
        self._table = label_map(original_classes)
        self._read: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        folder, sequences = SPLITS[domain][split]
        frames = self._frames(folder, sequences)
        if limit is not None and limit < len(frames):
            frames = [frames[i * len(frames) // limit] for i in range(limit)]
        self.files = [(frame, self._mask_of(frame)) for frame in frames]

    def _frames(self, folder: str, sequences: tuple[str, ...]) -> list[Path]:
        where = self.layout / folder
        files = sorted(where.iterdir()) if where.is_dir() else []
        pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
        frames = [p for p in pictures if p.name.startswith(sequences)]
        if not frames:
            raise ValueError(
                f"{self.domain} {self.split} needs frames of {' or '.join(sequences)} in "
                f"{str(where)!r}, found {len(pictures)} pictures and none of them"
            )
        return frames

    def _mask_of(self, frame: Path) -> Path:
        mask = frame.parent.with_name(frame.parent.name + "annot") / f"{frame.stem}.png"
        if not mask.is_file():
            raise FileNotFoundError(f"frame {str(frame)!r} has no mask: looked for {str(mask)!r}")
        return mask

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] RGB and label uint8 [H, W] of item `index`."""
        if index not in self._read:
            self._read[index] = self._load(index)
        return self._read[index]

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        frame, mask = self.files[index]
        image = read_picture(frame, cv2.IMREAD_COLOR)
        label = read_picture(mask, cv2.IMREAD_UNCHANGED)
        if label.ndim != 2 or label.dtype != np.uint8 or label.max() > VOID:
            raise ValueError(
                f"mask {str(mask)!r} must be one 8-bit channel of values 0 to {VOID}, got "
                f"shape {list(label.shape)}, dtype {label.dtype}, maximum {label.max()}"
            )
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"mask {str(mask)!r} is {label.shape[1]}x{label.shape[0]}, its frame "
                f"{image.shape[1]}x{image.shape[0]}"
            )
        if self.size is not None:
            width_height = (self.size[1], self.size[0])
            image = cv2.resize(image, width_height, interpolation=cv2.INTER_AREA)
            label = cv2.resize(label, width_height, interpolation=cv2.INTER_NEAREST_EXACT)
        return np.ascontiguousarray(image[..., ::-1]), self._table[label]

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        return segmentation_item(*self.picture(index), self.domain)

    def check(
        self, size: tuple[int, int] | None = None, indices: Iterable[int] | None = None
    ) -> list[str]:
        """Reads the frames and masks (those of `indices`; default: all) and returns what is wrong,
        a sentence for each problem. Frames are resized to any size, so `size` does not matter.
        """
        return problems_of(self._load, range(len(self)) if indices is None else indices)

    def fingerprint(self) -> str:
        """SHA-256 of relative file names with their sizes, picture size and label map."""
        files = [
            [path.relative_to(self.layout).as_posix(), path.stat().st_size]
            for pair in self.files
            for path in pair
        ]
        facts = {"files": sorted(files), "size": self.size, "labels": self._table.tolist()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
