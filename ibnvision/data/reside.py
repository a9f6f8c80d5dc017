"""RESIDE (ITS, OTS, SOTS, RTTS) and Haze4K from the folders that people have on disk.

The folder given is the set, or one that holds it under one of its names (`ITS*`, `RESIDE-IN`,
`reside-indoor`, `OTS*`, `RESIDE-OUT`, `SOTS*`, `Haze4K*`, `RTTS*`; also inside `RESIDE*`). Names
on disk may be in any case, pictures with one of layout.SUFFIXES. There:

    its           {train,.}/{hazy,haze,ITS_haze} with {clear,GT,ITS_clear}; val/ if there is one
    ots           the same; hazy also in OTS/ or split over part1/, part2/, ...; also clear_images/
    sots_indoor   {indoor/nyuhaze500,indoor,nyuhaze500,test,.}/{hazy,haze} with {gt,clear}
    sots_outdoor  {outdoor,test,.}/{hazy,haze} with {gt,clear}
    haze4k        {train,test}/{haze,hazy,IN} with {gt,clear}
    rtts          {JPEGImages,.}: no clear pictures, so its one split is `unpaired`, without score

A folder without pictures of its own stands for its sub-folders (`haze/OTS`, `hazy/part1`). So the
downloads serve as they are, and the layouts of DEA-Net (`dataset/ITS/{train,test}/{hazy,clear}`,
where test is SOTS), of DehazeFormer (`RESIDE-IN/train/{hazy,GT}`) and of ConvIR.

Pairs: the clear name is the hazy one up to its first "_", or all of it. SOTS indoor is published
with clear pictures of 640x480 and hazy ones of 620x460: of those the centre is taken, 10 pixels
off each side, as in FFA-Net's loader; every other difference in size is an error. Where ITS, OTS
or Haze4K has no val/ of its own, val is the scenes (the number before the first "_") divisible by
20, and train all others; SOTS and Haze4K's test never take part in training.

Sources: Li et al., IEEE TIP 2019, https://arxiv.org/abs/1712.04143 (RESIDE); Liu et al., ACM
Multimedia 2021 (Haze4K, in DMT-Net). For research; not in this package.
"""

import re
from pathlib import Path

from torch.utils.data import Dataset

from .layout import CLEAR, HAZY, Layout, find
from .names import known
from .paired import Paired, Unpaired
from .pairing import Pair, split_pairs

_INDOOR = (".", "its*", "reside-in*", "reside*/its*", "reside*/reside-in*")
_OUTDOOR = (".", "ots*", "reside-out*", "reside*/ots*", "reside*/reside-out*")
_SOTS = (".", "sots*", "reside*/sots*", "sots*/sots*")

SETS = {
    "its": Layout(
        "RESIDE ITS",
        {"train": ("train", "."), "val": ("val",)},
        homes=_INDOOR,
        hazy=(*HAZY, "its_haze"),
        clear=(*CLEAR, "its_clear"),
    ),
    "ots": Layout(
        "RESIDE OTS",
        {"train": ("train", "."), "val": ("val",)},
        homes=_OUTDOOR,
        hazy=(*HAZY, "part*", "ots"),
        clear=(*CLEAR, "clear_images"),
    ),
    "sots_indoor": Layout(
        "SOTS indoor",
        {"test": ("indoor/nyuhaze500", "indoor", "*nyuhaze500", "test", ".")},
        homes=(*_SOTS, *_INDOOR[1:]),
    ),
    "sots_outdoor": Layout(
        "SOTS outdoor",
        {"test": ("outdoor", "test", ".")},
        homes=(*_SOTS, *_OUTDOOR[1:]),
    ),
    "haze4k": Layout(
        "Haze4K",
        {"train": ("train",), "val": ("val",), "test": ("test",)},
        homes=(".", "haze4k*", "haze4k*/haze4k*"),
    ),
    "rtts": Layout(
        "RTTS",
        {"unpaired": (".",)},
        homes=(".", "rtts*", "reside*/rtts*", "rtts*/rtts*"),
        hazy=("jpegimages", "."),
        clear=(),
    ),
}
TESTED_ON = {"its": "sots_indoor", "ots": "sots_outdoor"}
BORDER_PX = {"sots_indoor": 10}
# SOTS indoor 1400_1, outdoor 0001_0.8_0.2: one key serves both, and a root may be the wrong one
NAMES = {"sots_indoor": r"\d+_\d+", "sots_outdoor": r"\d+_[\d.]+_[\d.]+"}


def build(domain: str, split: str, *, root: str | Path, limit: int | None = None) -> Dataset:
    """The set `domain` of SETS, read from `root`; layouts, pairs and splits as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, a hazy picture without
    clear one) and ValueError (split, limit, names of another set, no scene to hold out).
    """
    layout = SETS[known("domain", domain, SETS)]
    _check_split(domain, split, layout)
    if not layout.clear:
        return Unpaired(domain, find(layout, root, split).hazy, limit=limit)
    pairs = split_pairs(layout, root, split, _scene)
    named = re.compile(NAMES.get(domain, ".*"))
    strange = next((pair.hazy for pair in pairs if not named.fullmatch(pair.hazy.stem)), None)
    if strange is not None:
        example = {"sots_indoor": "1400_1", "sots_outdoor": "0001_0.8_0.2"}[domain]
        raise ValueError(
            f"hazy pictures of {layout.title} must be named like {example}, got {str(strange)!r}: "
            "is this another set? Pairs of your own are read as paired_folder"
        )
    return Paired(domain, pairs, border=BORDER_PX.get(domain, 0), limit=limit)


def _scene(pair: Pair) -> str:
    return pair.hazy.stem.partition("_")[0]


def _check_split(domain: str, split: str, layout: Layout) -> None:
    if split in layout.places:
        return
    if not layout.clear:
        raise ValueError(
            f"{domain} has no clear pictures, so it cannot be trained on or scored: split must be "
            f"unpaired, got {split!r}; `ibnvision dehaze DIR --weights RUN` restores its pictures"
        )
    other = f" ({domain} is tested on {TESTED_ON[domain]})" if domain in TESTED_ON else ""
    raise ValueError(
        f"split of {domain} must be one of {', '.join(layout.places)}, got {split!r}{other}"
    )
