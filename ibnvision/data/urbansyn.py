"""UrbanSyn, rendered streets, from the folder that people have on disk.

The folder given is the set, or one that holds it as `urbansyn*`. There, names in any case:

    rgb/rgb_0001.png  with  ss/ss_0001.png

All images are train; there is no official split. By the data set's card `ss` holds trainIds of the
19 classes; 19 is taken for unlabelled, which a public reader of the set does as well. Both were
read about, not tried on the files themselves: any other value is an error that names its file.

Gómez et al., 2023, https://arxiv.org/abs/2312.12176. CC BY-SA 4.0; not in this package.
"""

from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from .label_files import check_split, label_pairs
from .label_maps import LABEL_MAPS, decode
from .labelled import Labelled
from .layout import find_labelled
from .names import known

HOMES = (".", "urbansyn*", "urbansyn*/urbansyn*")


def build(
    domain: str,
    split: str,
    *,
    root: str | Path,
    limit: int | None = None,
    protocol: str = "native",
) -> Dataset:
    """The domain `urbansyn`, read from `root`; layout and split as above.

    Raises KeyError (domain, protocol), FileNotFoundError (no such layout in `root`, an image
    without label) and ValueError (split, limit).
    """
    known("domain", domain, ["urbansyn"])
    check_split(domain, split, ["train"], "there is no official split: all images are train")
    place = find_labelled("UrbanSyn", root, [("rgb", "ss")], HOMES)
    return Labelled(
        domain,
        label_pairs(place, lambda stem: [f"ss_{stem.lower().removeprefix('rgb_')}.png"]),
        partial(decode, label_map=LABEL_MAPS["urbansyn_ids"]),
        home=place.home,
        label_map="urbansyn_ids",
        split="all images (there is no official split)",
        protocol=protocol,
        limit=limit,
    )
