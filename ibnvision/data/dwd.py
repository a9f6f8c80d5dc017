"""Diverse Weather, the set of single-domain generalized detection: one source, four targets.

    DIR/{daytime_clear,daytime_foggy,dusk_rainy,night_rainy,night_sunny}/VOC2007/
        {JPEGImages/*.jpg,Annotations/*.xml,ImageSets/Main/{train,test}.txt}

Names in any case, the five folders also inside another one of DIR, with or without VOC2007. The
folder of night clear is called night_sunny (night_clear serves too).

The source `dwd_daytime_clear` has train (train.txt, 19,395 images) and test (test.txt, 8,313). The
four others are test sets that came without test.txt: published numbers are on the images of
their train.txt, and so is test here. Where a list has another number of images than is published, a
note says so. Seven classes; boxes are read as those of Pascal VOC. Images without objects stay;
some published numbers leave them out (`empty="drop"`).

Wu and Deng, CVPR 2022, https://arxiv.org/abs/2203.14530. For research; not in this package.
"""

from pathlib import Path

from torch.utils.data import Dataset

from . import voc
from .boxes import ClassNames
from .label_files import check_split
from .layout import contents, find_labelled, matching
from .names import DWD, known

ABOVE = ("", "*/")  # the five folders
BELOW = ("", "/voc2007", "/*/voc2007")
# domain -> its folders; split -> (list, images as published)
DOMAINS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, int]]]] = {
    "dwd_daytime_clear": (
        ("daytime?clear",),
        {"train": ("train", 19_395), "test": ("test", 8_313)},
    ),
    "dwd_night_clear": (("night?sunny", "night?clear"), {"test": ("train", 26_158)}),
    "dwd_dusk_rainy": (("dusk?rainy",), {"test": ("train", 3_501)}),
    "dwd_night_rainy": (("night?rainy",), {"test": ("train", 2_494)}),
    "dwd_daytime_foggy": (("daytime?foggy",), {"test": ("train", 3_775)}),
}
NAMES = ClassNames(DWD, spellings={"bicycle": "bike", "motorcycle": "motor", "motorbike": "motor"})


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """A domain of DOMAINS, read from `root`; layouts and splits as above.

    Raises KeyError (domain), FileNotFoundError (no such layout or list in `root`, an image or XML
    file that is not there) and ValueError (split, limit, empty).
    """
    folders, lists = DOMAINS[known("domain", domain, DOMAINS)]
    check_split(domain, split, lists)
    homes = [f"{above}{name}{in_}" for name in folders for above in ABOVE for in_ in BELOW]
    place = find_labelled(domain, root, [voc.FOLDERS], homes)
    name, published = lists[split]
    path = next(iter(matching(place.home, f"imagesets/main/{name}.txt")), None)
    if path is None:
        raise FileNotFoundError(
            f"no {domain} ({split}) in {str(place.home)!r}: looked for ImageSets/Main/{name}.txt, "
            f"in any case; {contents(place.home)}"
        )
    files = voc.listed_files(place, path)
    return voc.boxed(
        domain,
        files,
        names=NAMES,
        home=place.home,
        split=f"{split}, the list {path.name}"
        + (" (no test list was published)" if split != name else ""),
        empty=empty,
        limit=limit,
        notes=voc.counted(len(files), published),
    )
