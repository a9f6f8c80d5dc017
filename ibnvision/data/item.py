"""What every segmentation dataset gives for one picture."""

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
