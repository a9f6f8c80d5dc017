"""Class ids of pictures of any size: at which size a model sees one, and in which windows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transform

from ibnvision.models.windows import resize_rows, slide_rows

Label = Callable[[Tensor], Tensor]

OVERLAP = 1 / 3  # of a window with the next one
_ON_GPU = 4  # windows that go through the model together


def labeller(
    model: nn.Module,
    trained: tuple[int, int],
    *,
    crops: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = OVERLAP,
    whole: bool = False,
    scale: float | None = None,
    height: int | None = None,
    half: bool = False,
) -> Label:
    """A function from an image, float [3, H, W] in [0, 1], to its class ids, uint8 [H, W].

    The size at which the model sees an image: one that was trained on crops of pictures of native
    size sees it at that size; any other at the height of its training images, the width to a
    multiple of 8. The second sees it whole, all other cases in windows with blended borders, in
    memory for the rows of one window. Scores are brought back to the image's own size.

    Args:
        model: [n, 3, h, w] to logits [n, K, h, w], at most 256 classes.
        trained: height and width of the training images.
        crops: whether those were crops of pictures of native size.
        window: height and width; by default those of the training images.
        overlap: share of a window that the next one sees too, in [0, 1).
        whole: the image at once, not in windows.
        scale: size as a factor of the image's own; height: size by its height in pixels.
        half: run the model in bfloat16 where autocast does.

    Raises:
        ValueError: an argument is not as above, or two exclude each other. The function raises
            RuntimeError with advice where memory is short.
    """
    _check(window, overlap, whole, scale, height)
    at_once = whole or not (crops or window or scale or height)
    device = next(model.parameters()).device
    batch = _ON_GPU if device.type == "cuda" else 1

    def seen(native: tuple[int, int]) -> tuple[int, int]:
        if scale or (crops and not height):
            down, across = (max(1, round(side * (scale or 1))) for side in native)
            return down, across
        rows = height or trained[0]
        return rows, max(8, round(native[1] * rows / native[0] / 8) * 8)

    def label(image: Tensor) -> Tensor:
        native = (image.shape[1], image.shape[2])
        size = seen(native)
        sides = size if at_once else window or trained
        stride = (sides[0], sides[1]) if at_once else _stride(sides, overlap)
        ids = torch.empty(native, dtype=torch.uint8)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                bands = slide_rows(
                    model,
                    _resized(image, size),
                    window=sides,
                    stride=stride,
                    blend=True,
                    batch=batch,
                )
                for top, scores in bands if size == native else resize_rows(bands, size[0], native):
                    best = scores.max(0).indices  # on a CPU four times as fast as argmax
                    ids[top : top + len(best)] = best.to("cpu", torch.uint8)
        except (RuntimeError, MemoryError) as error:
            short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
            if short or "can't allocate memory" in str(error):
                raise RuntimeError(
                    f"out of memory for a picture of {native[1]}x{native[0]}, seen at "
                    f"{size[1]}x{size[0]} in windows of {sides[1]}x{sides[0]}: use a smaller "
                    "window or scale"
                ) from error
            raise
        return ids

    return label


def _stride(window: tuple[int, int], overlap: float) -> tuple[int, int]:
    down, across = (max(1, round(side * (1 - overlap))) for side in window)
    return down, across


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[1:]) == size:
        return image
    return transform.resize(image, list(size), antialias=True).clamp(0, 1)


def _check(
    window: tuple[int, int] | None,
    overlap: float,
    whole: bool,
    scale: float | None,
    height: int | None,
) -> None:
    if window is not None and (len(window) != 2 or min(window) < 1):
        raise ValueError(f"window must be height and width, each at least 1, got {window}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, got {overlap}")
    if whole and window is not None:
        raise ValueError("whole and window must not both be given")
    if scale is not None and height is not None:
        raise ValueError("scale and height must not both be given")
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"scale must be greater than 0, got {scale}")
    if height is not None and height < 1:
        raise ValueError(f"height must be at least 1, got {height}")
