"""Your own images and masks, of your own classes.

    DIR/{images,masks}/*                            a test set
    DIR/{train,val,test}/{images,masks}/*           to train on; val/ and test/ as you need them
    DIR/{images,masks}/{train,val,test}/*           the same
    DIR/classes.txt                                 the names of the classes 0, 1, ..., one a line
    DIR/palette.json                                or {"name": [R, G, B], ...} in that order

Names in any case. A mask has the name of its image, whatever the suffix. It is a PNG of 8 bits,
plain or with a palette, whose values are the numbers of the classes; with palette.json it may also
hold the colours themselves (RGB). The value 255 is ignored, as is a colour that palette.json names
"ignored"; any other one is an error that names the file.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .label_files import Source, check_split, label_pairs
from .label_maps import from_colors, read_values
from .layout import contents, find_labelled, search_labelled
from .names import IGNORED

SPLITS = {"train": "train", "val": "val*", "test": "test"}
FLAT = [("images", "masks")]
MASKS = (".png", ".bmp")
MOST = 250  # classes; above that a value is not told from IGNORED


def source(domain: str, split: str, root: str | Path) -> Source:
    """Your images and masks in `root`; layouts and splits as above.

    Raises what `Source` says, FileNotFoundError (no classes) and ValueError (classes, images
    without train/).
    """
    check_split(domain, split, SPLITS)
    colors = _colors(root)
    names = classes(root)
    folders = _folders(split) if _named_splits(root) else [*_folders(split), *FLAT]
    if split != "test" and splits(root) == ("test",):
        raise ValueError(
            f"{str(root)!r} must hold train/ to give a {split} split: its images are a test set; "
            "to train on them, move images/ and masks/ into train/"
        )
    place = find_labelled(f"images and masks ({split})", root, folders)
    files = label_pairs(place, lambda stem: [f"{stem}{suffix}" for suffix in MASKS])
    read = partial(decode, classes=names, colors=colors)
    label_map = f"own: {', '.join(names)}"
    return Source(files, read, place.home, label_map, f"{split}, your folders")


def splits(root: str | Path) -> tuple[str, ...]:
    """The splits that `root` has: a folder without train/, val/ and test/ is a test set.

    Raises FileNotFoundError where there are no images and masks.
    """
    named = _named_splits(root)
    if not named:
        find_labelled("images and masks", root, [*_folders("train"), *FLAT])
    return named or ("test",)


def classes(root: str | Path) -> tuple[str, ...]:
    """Names of the classes in the order of their values.

    Raises FileNotFoundError (neither file) and ValueError (no names, too many, one that stands
    twice, a palette.json that names others than classes.txt).
    """
    root = Path(root).expanduser()
    path, colors = root / "classes.txt", _colors(root)
    if path.is_file():
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
    elif colors is not None:
        names = tuple(name for name in colors if name != "ignored")
    else:
        raise FileNotFoundError(
            f"no classes in {str(root)!r}: looked for classes.txt (a name a line) and palette.json "
            f"(name: [R, G, B]); {contents(root)}"
        )
    if not 1 <= len(names) <= MOST or len(set(names)) < len(names):
        raise ValueError(f"classes of {str(root)!r} must be 1 to {MOST} unlike names, got {names}")
    if colors is not None and set(names) != set(colors) - {"ignored"}:
        raise ValueError(
            f"palette.json in {str(root)!r} must name the classes of classes.txt, "
            f"{', '.join(names)}, got {', '.join(colors)}"
        )
    return names


def decode(
    path: Path, classes: Sequence[str], colors: dict[str, tuple[int, int, int]] | None
) -> np.ndarray:
    """Class numbers uint8 [H, W] of a mask; ValueError naming the file for an unknown value."""
    values = read_values(path, colors=colors is not None)
    if values.ndim == 3 and colors is not None:
        order = [*classes, *(["ignored"] if "ignored" in colors else [])]
        index = from_colors(values, np.array([colors[name] for name in order], np.uint8), MOST + 1)
        if (index == MOST + 1).any():
            strange = np.unique(values[index == MOST + 1], axis=0)[:8].tolist()
            raise ValueError(
                f"mask {str(path)!r} holds the colours {strange}, which palette.json does not name"
            )
        index[index == len(classes)] = IGNORED
        return index
    strange = np.unique(values[(values >= len(classes)) & (values != IGNORED)])[:8].tolist()
    if strange:
        raise ValueError(
            f"mask {str(path)!r} must hold 0 to {len(classes) - 1} for the {len(classes)} classes, "
            f"or {IGNORED}, got also {strange}"
        )
    return values


def _colors(root: str | Path) -> dict[str, tuple[int, int, int]] | None:
    path = Path(root).expanduser() / "palette.json"
    if not path.is_file():
        return None
    try:
        colors = {name: tuple(rgb) for name, rgb in json.loads(path.read_text("utf-8")).items()}
        right = all(
            len(c) == 3 and all(0 <= int(v) == v <= 255 for v in c) for c in colors.values()
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} {_PALETTE}, got {type(error).__name__}: {error}"
        ) from error
    if not right or len(set(colors.values())) < len(colors):
        raise ValueError(f"{str(path)!r} {_PALETTE}, got {colors}")
    return colors


_PALETTE = 'must hold {"name": [R, G, B], ...} with unlike colours of 0 to 255'


def _named_splits(root: str | Path) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if search_labelled(root, _folders(split)))


def _folders(split: str) -> list[tuple[str, str]]:
    name = SPLITS[split]
    return [(f"{name}/images", f"{name}/masks"), (f"images/{name}", f"masks/{name}")]
