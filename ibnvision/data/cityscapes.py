"""Cityscapes and Foggy Cityscapes from the folders that people have on disk.

The folder given is the set, or one that holds it as `cityscapes*`. There, names in any case:

    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png       with  gtFine/{train,val}/<city>/
    leftImg8bit_trainvaltest/leftImg8bit/...               with  gtFine_trainvaltest/gtFine/...
    leftImg8bit_foggy/..., also in leftImg8bit_trainvaltest_foggy/:
        *_leftImg8bit_foggy_beta_{0.005,0.01,0.02}.png     with the same labels

The two forms mix. Labels are `*_gtFine_labelTrainIds.png` where there are any, else
`*_gtFine_labelIds.png`. The official test labels are not public, so `test` is the official val, as
in all published numbers, and so is `val`: choose no checkpoint by it before reporting it.

Cordts et al., CVPR 2016, https://arxiv.org/abs/1604.01685; Sakaridis et al., IJCV 2018,
https://arxiv.org/abs/1708.07819 (fog of three densities by the measured depth). For research; not
in this package.
"""

from pathlib import Path

from .label_files import Source, find_split, label_pairs, official
from .label_maps import decoder

HOMES = (".", "cityscapes*", "cityscapes*/cityscapes*")
LABELS = ("gtfine/{}", "gtfine_trainvaltest/gtfine/{}")
CLEAR = ("leftimg8bit/{}", "leftimg8bit_trainvaltest/leftimg8bit/{}")
FOGGY = (
    "leftimg8bit_foggy/{}",
    "leftimg8bit_trainvaltest_foggy/leftimg8bit_foggy/{}",
    "leftimg8bit_trainvaltest_foggy/{}",
)
# domain -> folders of images, how the stems of its images end
DOMAINS = {
    "cityscapes": (CLEAR, "_leftImg8bit"),
    "cityscapes_foggy_005": (FOGGY, "_leftImg8bit_foggy_beta_0.005"),
    "cityscapes_foggy_01": (FOGGY, "_leftImg8bit_foggy_beta_0.01"),
    "cityscapes_foggy_02": (FOGGY, "_leftImg8bit_foggy_beta_0.02"),
}


def source(domain: str, split: str, root: str | Path) -> Source:
    """A domain of DOMAINS in `root`; layouts and splits as above, errors of `Source`."""
    images, end = DOMAINS[domain]
    folder, words = official(domain, split)
    place = find_split(domain, root, folder, images, LABELS, HOMES)
    files, label_map = label_pairs(place, _names, end=end), "cityscapes_ids"
    return Source(files, decoder(label_map), place.home, label_map, words, kind="cityscapes")


def _names(frame: str) -> list[str]:
    return [f"{frame}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds")]
