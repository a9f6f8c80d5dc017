"""Measures over a whole set: update() per batch, compute() at the end; and the words about them."""

import math
from collections.abc import Iterable
from typing import Any

from . import detection
from .detection import DetectionMetric
from .domains import mean_corruption, target_mean, worst_domain
from .restoration import PROTOCOLS, RestorationMetric, luma, psnr
from .segmentation import ABSENT_RULE, ECE_RULE, IGNORE, STRICT_RULE, SegmentationMetric

__all__ = [
    "ABSENT_RULE",
    "BY_CLASS",
    "ECE_RULE",
    "IGNORE",
    "PROTOCOLS",
    "STRICT_RULE",
    "DetectionMetric",
    "RestorationMetric",
    "SegmentationMetric",
    "as_text",
    "heading",
    "luma",
    "mean_corruption",
    "notes",
    "psnr",
    "rules",
    "target_mean",
    "unit",
    "worst_domain",
]

BY_CLASS = ("iou_pct", "ap50_by_class_pct")  # class -> number: what a table shows of the classes
_ABSENT = {"iou_pct": ABSENT_RULE, "ap_pct": detection.ABSENT_RULE}  # key that needs it -> rule
_RULES = (  # name in a file, key of a result that needs it, what it is about, the rule
    ("strict_rule", "miou_strict_pct", "miou strict", STRICT_RULE),
    ("ece_rule", "ece_pct", "ece", ECE_RULE),
    ("ap_rule", "ap_pct", "ap", detection.AP_RULE),
    ("voc_rule", "voc_ap50_pct", "voc ap50", detection.VOC_RULE),
    ("ignore_rule", "ap_pct", "ignored objects", detection.IGNORE_RULE),
    ("empty_image_rule", "ap_pct", "images without objects", detection.EMPTY_IMAGE_RULE),
    ("d_ece_rule", "d_ece_pct", "d ece", detection.D_ECE_RULE),
)
_UNITS = {"pct": "%", "db": "dB"}


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
    """What a file records beside the numbers of these keys: `protocols` and the rules.

    Each only where a key needs it.
    """
    keys = list(keys)
    protocols = {key: PROTOCOLS[key] for key in keys if key in PROTOCOLS}
    absent = {"absent_rule": _absent(keys)} if _absent(keys) else {}
    others = {name: text for name, key, _, text in _RULES if key in keys}
    return absent | others | ({"protocols": protocols} if protocols else {})


def notes(keys: Iterable[str]) -> list[str]:
    """The same for people, in lines."""
    keys = list(keys)
    lines = [f"{heading(key)}: {PROTOCOLS[key]}" for key in keys if key in PROTOCOLS]
    lines += [f"{about}: {text}" for _, key, about, text in _RULES if key in keys]
    absent = _absent(keys)
    return [*lines, f"in %, higher is better; {absent}"] if absent else lines


def _absent(keys: Iterable[str]) -> str:
    return next((_ABSENT[key] for key in keys if key in _ABSENT), "")
