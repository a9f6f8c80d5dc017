"""Your own pictures with boxes in COCO's format.

    DIR/annotations/instances_{train,val,test}*.json   with  DIR/{train,val,test}*/ or DIR/images/
    DIR/{train,valid,test}/_annotations.coco.json      with  the pictures beside it (Roboflow)
    DIR/{train,val,test}/boxes.json                    as    `ibnvision data make` writes it
    DIR/boxes.json, or annotations.json                a test set
    DIR/classes.txt                                    names of the classes, one a line; optional

In annotations/ the file may also be called train.json or train2017.json; its pictures are in the
folder of that name, in images/ of that name, in images/, or in DIR. Of a file_name sub-folders
count. A box is x, y, width, height in pixels, as it stands. `iscrowd` and `ignore` objects are
ignored; an image without objects stays. Without a test split val is what is tested on.

A second folder is `coco_json:LABEL` with a label of your own, so that a run can train on one set
and be tested on others; all must have one list of classes.

Classes are the categories in the order of their ids, however sparse, or those of classes.txt in its
order; objects of other categories are left out. A category that has no objects and is only the
supercategory of all others, as Roboflow writes it, is none.

Lin et al., ECCV 2014, https://arxiv.org/abs/1405.0312.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from .boxed import Boxed, Record
from .boxes import Annotation, ClassNames, annotation
from .coco import Content, read
from .label_files import check_split
from .layout import contents, matching
from .own_classes import listed, own_split, unlike

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
FLAT = ("boxes.json", "_annotations.coco.json", "annotations.json", "instances.json")
CONVENTION = "COCO x, y, width, height in pixels, as they stand"


def build(
    domain: str,
    split: str,
    *,
    root: str | Path,
    limit: int | None = None,
    empty: str = "keep",
) -> Dataset:
    """Your pictures and boxes in `root`; layouts and splits as above.

    Raises FileNotFoundError (no such layout in `root`, a picture that is not
    there) and ValueError (split, limit, empty, classes, a file that is not of this format, pictures
    without train/).
    """
    check_split(domain, split, SPLITS)
    root = Path(root).expanduser()
    split, said = own_split(root, split, splits(root))
    path = _files(root, split)[0]
    content = read(path)
    folder = _folder(root, path, content)
    names = ClassNames(classes(root))
    return Boxed(
        domain,
        [Record(folder / name, path, number) for number, (name, _) in content.images.items()],
        partial(_annotation, content=content, names=names),
        names=names,
        home=root,
        split=f"{said}, your file {path.relative_to(root).as_posix()}",
        convention=CONVENTION,
        empty=empty,
        limit=limit,
        problems=content.problems,
    )


def splits(root: str | Path) -> tuple[str, ...]:
    """The splits that `root` has: a folder without train, val and test is a test set.

    Raises FileNotFoundError where there is no file of this format.
    """
    root = Path(root).expanduser()
    named = tuple(split for split in SPLITS if _named(root, split))
    if not named and not _flat(root):
        raise _nothing(root, *SPLITS)
    return named or ("test",)


def classes(root: str | Path) -> tuple[str, ...]:
    """Names of the classes in the order of their labels.

    Raises FileNotFoundError (no file of this format) and ValueError (a file that is not of it, no
    categories, two of one name, splits that do not agree).
    """
    root = Path(root).expanduser()
    own = listed(root)
    if own:
        return own
    lists: dict[tuple[str, ...], Path] = {}
    for split in splits(root):
        path = _files(root, split)[0]
        lists.setdefault(_classes(read(path)), path)
    if len(lists) > 1:
        (first, one), (second, other) = list(lists.items())[:2]
        raise ValueError(
            f"{str(one)!r} and {str(other)!r} must name the same categories in the order of their "
            f"ids, got {', '.join(first)} and {', '.join(second)}; classes.txt in {str(root)!r} "
            "settles it"
        )
    (names,) = lists
    return unlike(names, root)


def _classes(content: Content) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(content.categories.items()))


def _annotation(record: Record, content: Content, names: ClassNames) -> Annotation:
    name, size = content.images[record.image_id]
    where = f"{str(record.source)!r} ({name})"
    return annotation(content.rows[record.image_id], names, where, size)


def _named(root: Path, split: str) -> list[Path]:
    """The files of a split, none where the folder does not name splits."""
    found: list[Path] = []
    for name in SPLITS[split]:
        for file in FLAT:
            found += matching(root, f"{name}/{file}")
        for pattern in (f"instances_{name}*.json", f"{name}.json", f"{name}[0-9]*.json"):
            found += [*matching(root, f"annotations/{pattern}"), *matching(root, pattern)]
    return found


def _files(root: Path, split: str) -> list[Path]:
    found = _named(root, split)
    if not found and not any(_named(root, name) for name in SPLITS):
        found = _flat(root)
    if not found:
        raise _nothing(root, split)
    return found


def _flat(root: Path) -> list[Path]:
    return [path for file in FLAT for path in matching(root, file)]


def _nothing(root: Path, *splits: str) -> FileNotFoundError:
    names = "{" + ",".join(name for split in splits for name in SPLITS[split]) + "}"
    files = "{" + ",".join(FLAT) + "}"
    flat = f", or {files} there (a test set)" if "test" in splits else ""
    return FileNotFoundError(
        f"no boxes of COCO's format ({', '.join(splits)}) in {str(root)!r}: looked for annotations/"
        f"instances_{names}*.json and {names}/{files}{flat}, in any case; {contents(root)}"
    )


def _folder(root: Path, path: Path, content: Content) -> Path:
    """The folder that the file names of a file start from."""
    stem = path.stem.removeprefix("instances_")
    folders = [path.parent]
    if path.parent != root:
        folders.append(path.parent / "images")
    for name in (stem, *_near(stem)):
        folders += [*matching(root, name, folders=True)]
        folders += [*matching(root, f"images/{name}", folders=True)]
    folders += [root / "images", root]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    names = [name for name, _ in content.images.values()]
    best, missing = root, names
    for folder in folders:
        away = [name for name in names if not (folder / name).is_file()]
        if len(away) < len(missing):
            best, missing = folder, away
    if missing:
        where = best if len(missing) < len(names) else None
        looked = [str(where)] if where else [str(folder) for folder in folders]
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} images of {str(path)!r} are not there, such as "
            f"{missing[0]!r}: looked in {', '.join(looked)}; {contents(where or root)}"
        )
    return best


def _near(stem: str) -> Iterator[str]:
    """Other names of the folder of a split: val.json with val2017/ or valid/."""
    for names in SPLITS.values():
        if stem.lower() in names:
            yield from names
            yield f"{names[0]}[0-9]*"
