"""Streets with boxes: the pictures of `Streets`, the boxes of their scenes as items of detection.

A box is the drawn extent of an object, parts hidden by others included. What is hardly to be seen
is ignored: neither reward nor penalty, and not trained on. Scenes without objects stay.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .boxes import EMPTY, Boxes, areas, check_empty, clip, object_facts, target_of
from .item import detection_item
from .labelled import sha256
from .names import BOX_CLASSES, known
from .streets import DOMAIN_SHIFTS, GENERATOR_VERSION, Scene, Streets, write_arrays

END = "_boxes"
HIDDEN = 0.8  # occlusion above which a box is ignored
CUT_OFF = 0.8  # truncation above which a box is ignored
SMALLEST_SIDE_PX = 4.0  # side below which a box is ignored
RULE = (
    f"ignored: occlusion above {HIDDEN}, truncation above {CUT_OFF}, a side below "
    f"{SMALLEST_SIDE_PX:g} px"
)


def boxes_of(scene: Scene) -> Boxes:
    """The boxes of a scene, cut to its picture."""
    height, width = scene.label.shape
    drawn = scene.boxes
    xyxy = np.array(drawn["xyxy"], np.float32).reshape(-1, 4)
    return clip(Boxes(xyxy, drawn["category"] + 1, hidden(scene), areas(xyxy)), height, width)


def hidden(scene: Scene) -> np.ndarray:
    """Which boxes of a scene are ignored, bool [n]."""
    height, width = scene.label.shape
    drawn = scene.boxes
    xyxy = drawn["xyxy"].reshape(-1, 4).clip(0, (width, height, width, height))
    sides = np.minimum(xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1])
    return (
        (drawn["occlusion"] > HIDDEN) | (drawn["truncation"] > CUT_OFF) | (sides < SMALLEST_SIDE_PX)
    )


class StreetsBoxes(Dataset):
    """One domain and split as items of image, target and domain; see `ibnvision.data`.

    domain: that of Streets with END, `streets_fog_boxes`. empty: "keep" scenes without an object
    that counts, or "drop" them, which draws all scenes. Other arguments and errors as Streets.
    """

    def __init__(self, domain: str, split: str, *, empty: str = "keep", **options: Any):
        known("domain", domain, [f"{name}{END}" for name in DOMAIN_SHIFTS])
        self.domain, self.empty = domain, check_empty(empty)
        self.streets = Streets(domain.removesuffix(END), split, **options)
        self._boxes: dict[int, Boxes] = {}
        self._scenes = [
            index
            for index in range(len(self.streets))
            if empty == "keep" or (~self.boxes(index).ignore).any()
        ]

    def __len__(self) -> int:
        return len(self._scenes)

    def boxes(self, scene: int) -> Boxes:
        """The boxes of scene number `scene` of the split."""
        if scene not in self._boxes:
            self._boxes[scene] = boxes_of(self.streets.scene(scene))
        return self._boxes[scene]

    def scene(self, index: int) -> Scene:
        """Scene behind item `index`, with depth, boxes and camera."""
        return self.streets.scene(self._scene(index))

    def _scene(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in [0, {len(self)}), got {index}")
        return self._scenes[index]

    def picture(self, index: int) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Image uint8 [H, W, 3] RGB and target of item `index`."""
        number = self._scene(index)
        return self.streets.picture(number)[0], target_of(self.boxes(number), number)

    def __getitem__(self, index: int) -> dict:
        return detection_item(*self.picture(index), self.domain)

    def keep(self, folder: str | Path) -> None:
        """As `Streets.keep`, whose file it shares; the boxes, the same in every domain of a split,
        are kept beside it.
        """
        self.streets.keep(folder)
        path = Path(folder) / f"{sha256(self._geometry())}.npz"
        if path.is_file():
            with np.load(path) as kept:
                ends = np.cumsum(kept["count"])[:-1]
                parts = [np.split(kept[name], ends) for name in Boxes._fields]
            self._boxes = {i: Boxes(*row) for i, row in enumerate(zip(*parts, strict=True))}
            return
        found = [self.boxes(scene) for scene in range(len(self.streets))]
        columns = {
            name: np.concatenate([getattr(boxes, name) for boxes in found])
            for name in Boxes._fields
        }
        write_arrays(path, count=np.array([len(boxes.labels) for boxes in found]), **columns)

    def facts(self) -> dict[str, Any]:
        """What a number measured on this set means: plain values to store beside it. Draws all
        scenes.
        """
        return {
            "protocol": "native",
            "input": f"{self.streets.width}x{self.streets.height}",
            "label_map": ", ".join(BOX_CLASSES),
            "box_convention": "drawn extent, hidden parts included",
            "split": self.streets.split,
            "images": len(self),
            "empty_images": EMPTY[self.empty],
            **object_facts([self.boxes(scene) for scene in self._scenes], BOX_CLASSES),
            "left_out": {},
            "files_sha256": self.fingerprint(),
            "annotations_sha256": sha256(self._geometry()),
            "notes": [RULE],
        }

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the items."""
        return sha256([self.streets.fingerprint(), self._geometry(), self.empty])

    def _geometry(self) -> list:
        """What decides the boxes."""
        size = [self.streets.height, self.streets.width]
        return ["boxes", GENERATOR_VERSION, self.streets.seed, size, self.streets.count, RULE]
