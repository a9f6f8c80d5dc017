"""O-HAZE, I-HAZE, Dense-Haze and NH-HAZE: real haze from a machine, in two protocols.

The folder given is the set, or one that holds it (`O-HAZE/# O-HAZY NTIRE 2018`, `I-HAZE/...`,
`Dense_Haze_NTIRE19`, `NH-HAZE/NH-HAZE`). There, in any case: `hazy` and `GT` (or `clear`) folders;
both kinds in one folder (`01_hazy.png`, `01_GT.png`); or such folders in train/, val/ and test/.
Pairs go by the first number in the names: `01_outdoor_hazy.jpg`, `01_outdoor_GT.jpg`.

    o_haze, i_haze, dense_haze, nh_haze   test: all pairs (45, 35, 55, 55; I-HAZE is often found
                                          with 30). For networks trained elsewhere: synthetic to
                                          real, without fine-tuning.
    o_haze_last5, ... , nh_haze_last5     trained on the set itself: test the last 5 pairs by
                                          number, val the 5 before them, train the others.

Numbers of the two must never stand in one column (a network trained on the set itself scores far
higher), which is why they are different domains.

Sources: Ancuti et al.: O-HAZE, CVPR workshops 2018, https://arxiv.org/abs/1804.05101; I-HAZE,
ACIVS 2018, https://arxiv.org/abs/1804.05091; Dense-Haze, ICIP 2019,
https://arxiv.org/abs/1904.02904; NH-HAZE, CVPR workshops 2020, https://arxiv.org/abs/2005.03560.
For research; not in this package.
"""

from pathlib import Path

from torch.utils.data import Dataset

from .layout import Found, Layout, find, natural, search
from .names import known
from .paired import Paired
from .pairing import by_number

_PLACES = {"all": (".",), "train": ("train",), "val": ("val*",), "test": ("test",)}
_HELD = 5  # pairs each of val and test in the protocol inside a set


def _layout(title: str, *names: str) -> Layout:
    homes = [".", *names, *(f"{name}/{inner}" for name in names for inner in names)]
    return Layout(title, _PLACES, homes=tuple(homes), flat=True)


SETS = {
    "o_haze": _layout("O-HAZE", "*o-haz*", "*o_haz*", "ohaz*"),
    "i_haze": _layout("I-HAZE", "*i-haz*", "*i_haz*", "ihaz*"),
    "dense_haze": _layout("Dense-Haze", "dense*haz*"),
    "nh_haze": _layout("NH-HAZE", "nh*haz*"),
}
DOMAINS = (*SETS, *(f"{name}_last5" for name in SETS))


def build(domain: str, split: str, *, root: str | Path, limit: int | None = None) -> Dataset:
    """The set and protocol `domain` of DOMAINS, read from `root`; layouts and splits as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, a hazy picture without
    clear one) and ValueError (split, limit, a number that stands twice, too few pairs to split).
    """
    name = known("domain", domain, DOMAINS).removesuffix("_last5")
    splits = ("test",) if name == domain else ("train", "val", "test")
    if split not in splits:
        other = f" (its own pairs train in {name}_last5)" if name == domain else ""
        raise ValueError(
            f"split of {domain} must be one of {', '.join(splits)}, got {split!r}{other}"
        )
    pairs = by_number(_all(SETS[name], root))
    if name == domain:
        return Paired(domain, pairs, limit=limit)
    if len(pairs) <= 2 * _HELD:
        raise ValueError(
            f"{domain} must have more than {2 * _HELD} pairs to split, got {len(pairs)}"
        )
    parts = {
        "train": pairs[: -2 * _HELD],
        "val": pairs[-2 * _HELD : -_HELD],
        "test": pairs[-_HELD:],
    }
    return Paired(domain, parts[split], limit=limit)


def _all(layout: Layout, root: str | Path) -> Found:
    """The pictures of a set, those of its train, val and test folders together."""
    if search(layout, root, "all") is None:
        parts = [search(layout, root, split) for split in ("train", "val", "test")]
        found = [part for part in parts if part is not None]
        if found:
            hazy, clear = ([file for part in found for file in part[i]] for i in (0, 1))
            return Found(sorted(hazy, key=natural), sorted(clear, key=natural))
    return find(layout, root, "all")
