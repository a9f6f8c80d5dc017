"""Your own pictures with boxes in the text format of YOLO.

    DIR/{images,labels}/{train,val,test}/*      to train on; val/ and test/ as you need them
    DIR/{train,valid,test}/{images,labels}/*    the same, as Roboflow writes it
    DIR/{images,labels}/*                       a test set
    DIR/data.yaml, *.yaml or classes.txt        names of the classes: `names:` as a list or as
                                                {0: name, ...}, or a name a line

A picture a.jpg belongs to a.txt; without one, or with an empty one, it shows no object, and stays.
A line is a class number from 0 and cx cy w h, or the points x y x y ... of an outline, whose box
is taken; all in [0, 1] of the picture. The paths in data.yaml play no part.

A second folder is `yolo_txt:LABEL`; without a test split val is tested on; see `coco_json`.
"""

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .boxed import Boxed, Record
from .boxes import Annotation, ClassNames, Row, annotation
from .label_files import check_split
from .layout import contents, find_labelled, matching, pictures_below, search_labelled
from .own_classes import listed, own_split, unlike

SPLITS = {"train": "train*", "val": "val*", "test": "test*"}
FLAT = [("images", "labels")]
CONVENTION = "YOLO cx, cy, width, height as shares of the picture"


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """Your pictures and boxes in `root`; layouts and splits as above.

    Raises FileNotFoundError (no such layout in `root`, no names of classes) and
    ValueError (split, limit, empty, classes, pictures without train/).
    """
    check_split(domain, split, SPLITS)
    root = Path(root).expanduser()
    split, said = own_split(root, split, splits(root))
    names = ClassNames(classes(root))
    folders = _folders(split) + ([] if _named(root) else FLAT)
    place = find_labelled(f"boxes of YOLO's format ({split})", root, folders)
    records = [
        Record(path, (place.labels / path.relative_to(place.images)).with_suffix(".txt"), number)
        for number, path in enumerate(pictures_below(place.images))
    ]
    without = sum(not record.source.is_file() for record in records)
    return Boxed(
        domain,
        records,
        partial(_annotation, names=names),
        names=names,
        home=place.home,
        split=f"{said}, your folders",
        convention=CONVENTION,
        empty=empty,
        limit=limit,
        notes=[f"{without} of {len(records)} images have no text file"] if without else [],
    )


def splits(root: str | Path) -> tuple[str, ...]:
    """The splits that `root` has: a folder without train, val and test is a test set.

    Raises FileNotFoundError where there are no pictures with labels/ beside them.
    """
    named = _named(root)
    if not named:
        find_labelled("boxes of YOLO's format", root, [*_folders("train"), *FLAT])
    return named or ("test",)


def classes(root: str | Path) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers.

    Raises FileNotFoundError (no names) and ValueError (none, two of one name, numbers that are not
    0, 1, ..., a file that is no YAML).
    """
    root = Path(root).expanduser()
    for path in (*matching(root, "data.y*ml"), *matching(root, "*.y*ml")):
        names = _from_yaml(path)
        if names is not None:
            return unlike(names, root)
    own = listed(root)
    if not own:
        raise FileNotFoundError(
            f"no classes in {str(root)!r}: looked for data.yaml with names: and for classes.txt (a "
            f"name a line); {contents(root)}"
        )
    return own


def _from_yaml(path: Path) -> list[str] | None:
    """The `names` of a file, None where it has none."""
    import yaml

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} must be YAML: {error}") from error
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, dict):
        numbers = [int(number) for number in names]
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError(f"names in {str(path)!r} must be numbered 0, 1, ..., got {numbers}")
        names = [name for _, name in sorted(zip(numbers, names.values(), strict=True))]
    if names is not None and not isinstance(names, list):
        raise ValueError(f"names in {str(path)!r} must be a list or a dict, got {names!r}")
    return None if names is None else [str(name) for name in names]


def _annotation(record: Record, names: ClassNames) -> Annotation:
    if not record.source.is_file():
        return annotation([], names, "")
    from PIL import Image

    try:
        with Image.open(record.image) as picture:  # reads the header only
            width, height = picture.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read {str(record.image)!r} as a picture: {error}") from error
    where, rows, problems = repr(str(record.source)), [], []
    for number, line in enumerate(record.source.read_text(encoding="utf-8-sig").splitlines()):
        if not line.strip():
            continue
        try:
            rows.append(_row(line, names.classes, width, height))
        except ValueError as error:
            problems.append(f"{where}, line {number + 1}: {error}: left out")
    found = annotation(rows, names, where)
    bad = {"lines that cannot be read": len(problems)} if problems else {}
    return found._replace(left_out={**found.left_out, **bad}, problems=[*problems, *found.problems])


def _row(line: str, classes: tuple[str, ...], width: int, height: int) -> Row:
    values = [float(value) for value in line.split()]
    if len(values) < 5 or (len(values) > 5 and (len(values) % 2 == 0 or len(values) < 7)):
        raise ValueError(f"must be a class and 4 numbers, or 3 points and more, got {line!r}")
    number = int(values[0])
    if number != values[0] or not 0 <= number < len(classes):
        raise ValueError(f"the class must be 0 to {len(classes) - 1}, got {line.split()[0]}")
    if len(values) == 5:
        cx, cy, w, h = values[1:]
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        xs, ys = values[1::2], values[2::2]
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    return Row((x0 * width, y0 * height, x1 * width, y1 * height), classes[number])


def _named(root: str | Path) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if search_labelled(root, _folders(split)))


def _folders(split: str) -> list[tuple[str, str]]:
    name = SPLITS[split]
    return [(f"images/{name}", f"labels/{name}"), (f"{name}/images", f"{name}/labels")]
