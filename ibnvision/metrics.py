"""Measures over a whole set: update() per batch, compute() at the end.

Segmentation is counted by torchmetrics. Restoration has its own SSIM, since torchmetrics pads by
reflection, which is none of the protocols of the dehazing papers.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

IGNORE = 255
ABSENT_RULE = (
    "a class without a labelled pixel in the set has no IoU (NaN, null in JSON) "
    "and is left out of the mean"
)
STRICT_RULE = (
    "the mean that RobustNet and mmsegmentation print: a class without a labelled pixel counts as "
    "0 once a pixel is predicted as it; equal to miou where every class is labelled"
)
ECE_RULE = (
    "expected calibration error over the labelled pixels: 15 equal bins of the largest class "
    "probability, distance of accuracy from confidence; lower is better"
)
_RULES = {  # key of a result -> name of its rule in a file, and the rule
    "miou_strict_pct": ("strict_rule", STRICT_RULE),
    "ece_pct": ("ece_rule", ECE_RULE),
}
_FLOAT = "on the clamped float images, not rounded to 8 bits; mean over images"
_SSIM = "11x11 gaussian window of sigma 1.5, per RGB channel"
PROTOCOLS = {  # key of a result -> how the number comes about
    "psnr_rgb_db": f"20 log10(1 / RMSE) over all RGB values {_FLOAT}; an equal pair is 100 dB",
    "psnr_y_db": "the same on Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255, ITU-R BT.601 in "
    "studio range with peak 1, as the papers compute it (rgb2ycbcr)",
    "ssim_zero_padded": f"{_SSIM}, zero padding, mean over the whole image (DEA-Net)",
    "ssim_valid": f"{_SSIM}, mean over the pixels whose window lies inside the image",
    "ssim_pooled": "ssim_valid after adaptive average pooling by max(1, round(min(H, W) / 256)) "
    "(DehazeFormer, gUNet, MixDehazeNet)",
}
_UNITS = {"pct": "%", "db": "dB"}
_EQUAL_DB = 100.0
_BINS = 15
_WINDOW = 11
_SIGMA = 1.5


def unit(key: str) -> str:
    """The unit of a result by the end of its key: "%", "dB" or none."""
    return _UNITS.get(key.rpartition("_")[2], "")


def heading(key: str) -> str:
    """A key in words with its unit; percent is said by `notes`."""
    name = key.rpartition("_")[0] if unit(key) else key
    return name.replace("_", " ") + (" dB" if unit(key) == "dB" else "")


def as_text(key: str, value: float) -> str:
    """A result in the digits that mean something; "-" where it is undefined."""
    digits = {"%": 1, "dB": 2}.get(unit(key), 4)
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def rules(keys: Iterable[str]) -> dict[str, Any]:
    """What a file records beside the numbers of these keys: `protocols` and the rules of _RULES.

    Each only where a key needs it.
    """
    keys = list(keys)
    protocols = {key: PROTOCOLS[key] for key in keys if key in PROTOCOLS}
    absent = {"absent_rule": ABSENT_RULE} if "iou_pct" in keys else {}
    others = {name: text for key, (name, text) in _RULES.items() if key in keys}
    return absent | others | ({"protocols": protocols} if protocols else {})


def notes(keys: Iterable[str]) -> list[str]:
    """The same for people, in lines."""
    keys = list(keys)
    lines = [f"{heading(key)}: {PROTOCOLS[key]}" for key in keys if key in PROTOCOLS]
    lines += [f"{heading(key)}: {text}" for key, (_, text) in _RULES.items() if key in keys]
    return [*lines, f"in %, higher is better; {ABSENT_RULE}"] if "iou_pct" in keys else lines


class SegmentationMetric:
    """Per-class IoU, its mean, pixel accuracy and calibration in percent, counted over the set.

    A class without a labelled pixel in the set has IoU NaN and is left out of the mean, even where
    it was predicted: those pixels already count against the classes that they belong to. The
    published evaluations count it as 0 then: `miou_strict_pct` is their mean.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._matrix = MulticlassConfusionMatrix(
            len(self.classes), ignore_index=IGNORE, validate_args=False, sync_on_compute=False
        )
        self._filled = False
        self._bins = torch.zeros(3, _BINS, dtype=torch.float64)  # pixels, confidence, hits

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count a batch of class ids, both int64 [N, H, W]; in the target 255 is ignored.

        confidence: float [N, H, W], the probability of the predicted class; for the calibration.

        Raises: ValueError for unequal shapes or an id that is no class.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction must have the shape of target, {list(target.shape)}, "
                f"got {list(prediction.shape)}"
            )
        for name, ids in (("prediction", prediction), ("target", target)):
            used = ids if name == "prediction" else ids[ids != IGNORE]
            if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < len(self.classes):
                raise ValueError(
                    f"{name} must hold class ids below {len(self.classes)}"
                    f"{' or 255' if name == 'target' else ''}, "
                    f"got values from {int(used.min())} to {int(used.max())}"
                )
        self._matrix = self._matrix.to(target.device)
        self._matrix.update(prediction, target)
        self._filled = True
        if confidence is not None:
            self._count(prediction, target, confidence)

    def _count(self, prediction: Tensor, target: Tensor, confidence: Tensor) -> None:
        if confidence.shape != target.shape:
            raise ValueError(
                f"confidence must have the shape of target, {list(target.shape)}, "
                f"got {list(confidence.shape)}"
            )
        labelled = target != IGNORE
        sure = confidence[labelled].double()
        hit = (prediction == target)[labelled].double()
        place = (sure * _BINS).long().clamp(0, _BINS - 1)
        sums = [torch.bincount(place, w, _BINS) for w in (torch.ones_like(sure), sure, hit)]
        self._bins += torch.stack(sums).cpu()

    @property
    def reliability(self) -> Tensor:
        """Pixels, mean confidence and accuracy of the calibration's bins, float64 [3, 15]."""
        pixels, sure, hits = self._bins
        return torch.stack([pixels, sure / pixels, hits / pixels])

    @property
    def confusion(self) -> Tensor:
        """Pixel counts, int64 [K, K] on the CPU: row = labelled class, column = predicted class."""
        if not self._filled:
            return torch.zeros(2 * [len(self.classes)], dtype=torch.int64)
        return self._matrix.compute().cpu()

    def compute(self) -> dict[str, Any]:
        """`miou_pct`, `miou_strict_pct`, `pixel_accuracy_pct`, `ece_pct` and, by class, `iou_pct`.

        NaN where undefined, as `ece_pct` is where no confidence was given.
        """
        counts = self.confusion.double()
        hits, labelled = counts.diag(), counts.sum(1)
        iou = hits / (labelled + counts.sum(0) - hits)
        strict = iou.nanmean().item()
        iou[labelled == 0] = math.nan
        return {
            "miou_pct": 100 * iou.nanmean().item(),
            "miou_strict_pct": 100 * strict,
            "pixel_accuracy_pct": 100 * (hits.sum() / labelled.sum()).item(),
            "ece_pct": 100 * self._calibration_error(),
            "iou_pct": {name: 100 * v for name, v in zip(self.classes, iou.tolist(), strict=True)},
        }

    def _calibration_error(self) -> float:
        pixels, sure, hits = self._bins
        return float((sure - hits).abs().sum() / pixels.sum())


class RestorationMetric:
    """PSNR and SSIM of restored images under the rules of PROTOCOLS, means over the images."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Measure a batch, both float [N, 3, H, W] in [0, 1]; the prediction is clamped to it.

        Raises: ValueError for unequal shapes, other than three channels or a side below 11.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction must have the shape of target, {list(target.shape)}, "
                f"got {list(prediction.shape)}"
            )
        if target.dim() != 4 or target.shape[1] != 3 or min(target.shape[2:]) < _WINDOW:
            raise ValueError(
                f"prediction and target must be [N, 3, H, W] with sides of at least {_WINDOW}, "
                f"got {list(target.shape)}"
            )
        x, y = prediction.detach().double().clamp(0, 1), target.detach().double()
        down = max(1, round(min(y.shape[2:]) / 256))
        size = (y.shape[2] // down, y.shape[3] // down)
        whole, inside = _ssim(x, y)
        if down > 1:
            _, pooled = _ssim(*(F.adaptive_avg_pool2d(image, size) for image in (x, y)))
        else:
            pooled = inside
        row = [psnr(x, y), psnr(luma(x), luma(y)), whole, inside, pooled]
        self._rows.append(torch.stack(row, 1).cpu())

    def compute(self) -> dict[str, Any]:
        """The keys of PROTOCOLS; NaN where no image was measured."""
        rows = torch.cat(self._rows) if self._rows else torch.full((1, len(PROTOCOLS)), math.nan)
        return dict(zip(PROTOCOLS, rows.mean(0).tolist(), strict=True))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB of each image of [N, C, H, W] in [0, 1], [N]; 100 where both are equal."""
    error = (x - y).square().mean((1, 2, 3))
    return torch.where(error == 0, _EQUAL_DB, -10 * torch.log10(error))


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in studio range, [N, 1, H, W] in [16, 235] / 255, of RGB in [0, 1]."""
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16) / 255


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of each image, [N]: over the zero-padded map, and over its part without padding."""
    c1, c2 = 0.01**2, 0.03**2
    mx, my, xx, yy, xy = (_blur(image) for image in (x, y, x * x, y * y, x * y))
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    ssim = top / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))
    edge = _WINDOW // 2
    inside = ssim[..., edge : ssim.shape[2] - edge, edge : ssim.shape[3] - edge]
    return ssim.mean((1, 2, 3)), inside.mean((1, 2, 3))


def _blur(image: Tensor) -> Tensor:
    """The gaussian window on zero padding; sums of shifted maps are faster than convolutions."""
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-offset.square() / (2 * _SIGMA**2))
    edge = _WINDOW // 2
    for dim, padding in ((3, (edge, edge)), (2, (0, 0, edge, edge))):
        padded, count = F.pad(image, padding), image.shape[dim]
        image = torch.zeros_like(image)
        for i, share in enumerate((window / window.sum()).tolist()):
            image.add_(padded.narrow(dim, i, count), alpha=share)
    return image
