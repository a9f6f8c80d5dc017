"""ACDC, real streets in fog, by night, in rain and in snow, from the folders that people have.

The folder given is the set, or one that holds it as `acdc*`. There, names in any case:

    rgb_anon/{fog,night,rain,snow}/{train,val}/<sequence>/*_rgb_anon.png   with  gt/.../
    rgb_anon_trainvaltest/rgb_anon/...                                     with  gt_trainval/gt/...

Labels are `*_gt_labelTrainIds.png`, else `*_gt_labelIds.png`. `acdc` is all four conditions,
`acdc_fog` and so on one each. The official test labels are not public, so `test` is val (106 images
by night, 100 in each other condition).

Sakaridis et al., ICCV 2021, https://arxiv.org/abs/2104.13395. For research; not in this package.
"""

import os
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from .label_files import OFFICIAL, Pair, check_split, label_pairs
from .label_maps import LABEL_MAPS, decode
from .labelled import Labelled
from .layout import find_labelled
from .names import known

HOMES = (".", "acdc*", "acdc*/acdc*")
IMAGES = ("rgb_anon/{}", "rgb_anon_trainvaltest/rgb_anon/{}")
LABELS = ("gt/{}", "gt_trainval/gt/{}")
CONDITIONS = ("fog", "night", "rain", "snow")
DOMAINS = {"acdc": CONDITIONS, **{f"acdc_{name}": (name,) for name in CONDITIONS}}


def build(
    domain: str,
    split: str,
    *,
    root: str | Path,
    limit: int | None = None,
    protocol: str = "native",
) -> Dataset:
    """A domain of DOMAINS, read from `root`; layouts and splits as above.

    Raises KeyError (domain, protocol), FileNotFoundError (no such layout in `root`, an image
    without label) and ValueError (split, limit).
    """
    conditions = DOMAINS[known("domain", domain, DOMAINS)]
    check_split(domain, split, OFFICIAL)
    folder, words = OFFICIAL[split]
    files, homes = list[Pair](), []
    for condition in conditions:
        inner = f"{condition}/{folder}"
        folders = [
            (image.format(inner), label.format(inner)) for image in IMAGES for label in LABELS
        ]
        place = find_labelled(f"ACDC ({inner})", root, folders, HOMES)
        files += label_pairs(place, _names, end="_rgb_anon")
        homes.append(place.home)
    return Labelled(
        domain,
        files,
        partial(decode, label_map=LABEL_MAPS["cityscapes_ids"]),
        home=Path(os.path.commonpath(homes)),
        label_map="cityscapes_ids",
        split=words,
        protocol=protocol,
        limit=limit,
    )


def _names(frame: str) -> list[str]:
    return [f"{frame}_gt_{kind}.png" for kind in ("labelTrainIds", "labelIds")]
