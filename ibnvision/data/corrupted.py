"""Any dataset of segmentation or detection under one corruption at one severity."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .corruptions import VERSION, corrupt_sample, corruption_seed
from .haze import to_bytes


class Corrupted(Dataset):
    """The items of `dataset`, images corrupted, targets moved along; see `ibnvision.data`.

    Item i draws from corruption_seed(its image_id, else i, name, severity, seed), so it does not
    depend on the order or the number of the items that are read.

    Args:
        dataset: items of an image and a mask [H, W] or a dict with `boxes` as target.
        name, severity: as in `corrupt`. fog_depth asks for `dataset.scene(i).depth`, in metres.
        seed: of the whole set.

    Raises: as `corrupt` for name and severity; ValueError for fog_depth where there is no depth.
    """

    def __init__(self, dataset: Dataset, name: str, severity: int, seed: int = 0):
        corruption_seed(0, name, severity, seed)  # checks both
        if name == "fog_depth" and not hasattr(dataset, "scene"):
            raise ValueError(
                "fog_depth needs a dataset that knows its depth, scene(i).depth in metres, got "
                f"{type(dataset).__name__}"
            )
        self.dataset, self.name, self.severity, self.seed = dataset, name, severity, seed
        domain = getattr(dataset, "domain", type(dataset).__name__)
        self.domain = f"{domain}@{name}_{severity}"

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[index]
        image, target = item["image"], item["target"]
        detection = isinstance(target, Mapping)
        if not detection and (target.is_floating_point() or target.dim() != 2):
            raise TypeError(
                "dataset must give masks [H, W] or dicts of boxes as targets, got "
                f"{target.dtype} of shape {list(target.shape)}"
            )
        number = int(target["image_id"]) if detection and "image_id" in target else index
        seed = corruption_seed(number, self.name, self.severity, self.seed)
        depth = None
        if self.name == "fog_depth":
            depth = torch.tensor(self.dataset.scene(index).depth)  # type: ignore[attr-defined]
        moved = corrupt_sample(
            image,
            self.name,
            self.severity,
            seed,
            depth=depth,
            boxes=target["boxes"] if detection else None,
            mask=target.get("masks") if detection else target,
        )
        changed = _with_boxes(target, moved.boxes, moved.mask) if detection else moved.mask
        domain = f"{item['domain']}@{self.name}_{self.severity}"
        return {**item, "image": moved.image, "target": changed, "domain": domain}

    def picture(self, index: int) -> tuple[Any, Any]:
        """Image uint8 [H, W, 3] RGB of item `index`; its mask uint8 [H, W], else its dict."""
        item = self[index]
        target = item["target"]
        if isinstance(target, Tensor):
            target = target.to(torch.uint8).numpy()
        return to_bytes(item["image"]), target

    def facts(self) -> dict[str, Any]:
        """What a number measured on this set means: those of the dataset and the corruption."""
        facts = self.dataset.facts() if hasattr(self.dataset, "facts") else {}
        return {**facts, **self._corruption()}

    def fingerprint(self) -> str:
        """SHA-256 of what is evaluated: the dataset's own and the corruption."""
        facts = [self.dataset.fingerprint(), VERSION, self._corruption()]  # type: ignore[attr-defined]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _corruption(self) -> dict[str, Any]:
        return {
            "corruption": self.name,
            "severity": self.severity,
            "corruption_seed": self.seed,
        }


def _with_boxes(target: Mapping, boxes: Any, masks: Tensor | None) -> dict:
    """The target with moved boxes; their areas change as width times height does."""
    changed = {**target, "boxes": boxes}
    if masks is not None:
        changed["masks"] = masks
    if "area" in target and boxes is not target["boxes"]:
        before, after = ((b[:, 2:] - b[:, :2]).prod(1) for b in (target["boxes"], boxes))
        changed["area"] = target["area"] * after / before.clamp_min(1e-6)
    return changed
