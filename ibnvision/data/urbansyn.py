"""UrbanSyn, rendered streets, from the folder that people have on disk.

The folder given is the set, or one that holds it as `urbansyn*`. There, names in any case:

    rgb/rgb_0001.png  with  ss/ss_0001.png

All images are train; there is no official split. By the data set's card `ss` holds trainIds of the
19 classes; 19 is taken for unlabelled, which a public reader of the set does as well. Both were
read about, not tried on the files themselves: any other value is an error that names its file.

Gómez et al., 2023, https://arxiv.org/abs/2312.12176. CC BY-SA 4.0; not in this package.
"""

from pathlib import Path

from .label_files import Source, check_split, label_pairs
from .label_maps import decoder
from .layout import find_labelled

HOMES = (".", "urbansyn*", "urbansyn*/urbansyn*")


def source(domain: str, split: str, root: str | Path) -> Source:
    """The domain `urbansyn` in `root`; layout and split as above, errors of `Source`."""
    check_split(domain, split, ["train"], "there is no official split: all images are train")
    place = find_labelled("UrbanSyn", root, [("rgb", "ss")], HOMES)
    files = label_pairs(place, lambda stem: [f"ss_{stem.lower().removeprefix('rgb_')}.png"])
    words, label_map = "all images (there is no official split)", "urbansyn_ids"
    return Source(files, decoder(label_map), place.home, label_map, words)
