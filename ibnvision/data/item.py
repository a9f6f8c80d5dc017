"""What the datasets of a task give for one picture."""

import numpy as np
import torch
from numpy.typing import NDArray


def segmentation_item(image: NDArray[np.uint8], label: NDArray[np.uint8], domain: str) -> dict:
    """{"image": float32 [3, H, W] in [0, 1], "target": int64 [H, W], "domain": domain}.

    Args:
        image: [H, W, 3] RGB.
        label: [H, W].
    """
    return {
        "image": torch.from_numpy(image).permute(2, 0, 1).float().div_(255),
        "target": torch.from_numpy(label.astype(np.int64)),
        "domain": domain,
    }


def restoration_item(degraded: np.ndarray, clean: np.ndarray, domain: str) -> dict:
    """{"image": float32 [3, H, W] in [0, 1], "target": the same of `clean`, "domain": domain}.

    Args:
        degraded, clean: [H, W, 3] RGB, uint8 or uint16.
    """
    return {"image": to_image(degraded), "target": to_image(clean), "domain": domain}


def detection_item(image: NDArray[np.uint8], target: dict[str, torch.Tensor], domain: str) -> dict:
    """{"image": float32 [3, H, W] in [0, 1], "target": target, "domain": domain}.

    Args:
        image: [H, W, 3] RGB.
        target: boxes, labels, ignore, area and image_id, see `ibnvision.data`.
    """
    return {"image": to_image(image), "target": target, "domain": domain}


def to_image(picture: np.ndarray) -> torch.Tensor:
    """RGB [H, W, 3], uint8 or uint16, as float32 [3, H, W] in [0, 1]."""
    values = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(values).div_(int(np.iinfo(picture.dtype).max))
