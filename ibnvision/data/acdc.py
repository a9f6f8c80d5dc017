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
from pathlib import Path

from .label_files import Pair, Source, find_split, label_pairs, official
from .label_maps import decoder

HOMES = (".", "acdc*", "acdc*/acdc*")
IMAGES = ("rgb_anon/{}", "rgb_anon_trainvaltest/rgb_anon/{}")
LABELS = ("gt/{}", "gt_trainval/gt/{}")
CONDITIONS = ("fog", "night", "rain", "snow")
DOMAINS = {"acdc": CONDITIONS, **{f"acdc_{name}": (name,) for name in CONDITIONS}}


def source(domain: str, split: str, root: str | Path) -> Source:
    """A domain of DOMAINS in `root`; layouts and splits as above, errors of `Source`."""
    folder, words = official(domain, split)
    files, homes = list[Pair](), []
    for condition in DOMAINS[domain]:
        place = find_split("ACDC", root, f"{condition}/{folder}", IMAGES, LABELS, HOMES)
        files += label_pairs(place, _names, end="_rgb_anon")
        homes.append(place.home)
    home, label_map = Path(os.path.commonpath(homes)), "cityscapes_ids"
    return Source(files, decoder(label_map), home, label_map, words)


def _names(frame: str) -> list[str]:
    return [f"{frame}_gt_{kind}.png" for kind in ("labelTrainIds", "labelIds")]
