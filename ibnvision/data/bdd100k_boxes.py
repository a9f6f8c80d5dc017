"""BDD100K's 100,000 images with boxes of ten classes.

    images/100k/{train,val}/*.jpg  with  labels/det_20/det_{train,val}.json            since 2020
                                         labels/bdd100k_labels_images_{train,val}.json  2018

The folder given is the set, or one that holds it as `bdd*`; names in any case, the file also beside
`images/` or one folder deeper. The newer file wins where both are there; of its names and those of
2018 (person, bike, motor) the newer ones are the classes. An image without labels stays; one that
the file does not list is left out, and a note says how many. Corners count from 0 and the last
pixels are included, as in BDD100K's own evaluation: x1 = x2 + 1. Ignored are crowds and the
categories "other person", "other vehicle" and "trailer", as pedestrian, car and truck.

The official test labels are not public, so `test` is val.

Yu et al., CVPR 2020, https://arxiv.org/abs/1805.04687. For research; not in this package.
"""

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .boxed import Boxed, Record
from .boxes import Annotation, ClassNames, Row, annotation
from .label_files import OFFICIAL, check_split
from .layout import contents, matching, pictures_below
from .names import BDD100K_THINGS, known

HOMES = ("", "bdd*/", "bdd*/bdd*/")
IMAGES = ("images/100k/{}", "images/{}", "100k/{}")
LABELS = tuple(
    f"{folder}{name}"
    for name in ("det_{}.json", "bdd100k_labels_images_{}.json")
    for folder in ("", "labels/", "labels/*/", "labels/*/*/")
)
CONVENTION = "BDD100K, pixels from 0, last ones included: x1 = x2 + 1"
NAMES = ClassNames(
    BDD100K_THINGS,
    spellings={"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"},
    ignored={"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"},
)


def build(
    domain: str, split: str, *, root: str | Path, limit: int | None = None, empty: str = "keep"
) -> Dataset:
    """The domain `bdd100k_boxes`, read from `root`; layouts and splits as above.

    Raises KeyError (domain), FileNotFoundError (no such layout in `root`, a listed image that is
    not there) and ValueError (split, limit, empty, a file that is not of this format).
    """
    known("domain", domain, ["bdd100k_boxes"])
    check_split(domain, split, OFFICIAL)
    folder, words = OFFICIAL[split]
    home, images, path = _find(Path(root).expanduser(), folder)
    rows = read(path)
    there = {image.name: image for image in pictures_below(images)}
    away = [name for name in rows if name not in there]
    if away:
        raise FileNotFoundError(
            f"{len(away)} of the {len(rows)} images of {str(path)!r} are not in {str(images)!r}, "
            f"such as {away[0]!r}"
        )
    unlisted = len(there) - len(rows)
    return Boxed(
        domain,
        [Record(there[name], path, number) for number, name in enumerate(rows)],
        partial(_annotation, rows=rows),
        names=NAMES,
        home=home,
        split=words,
        convention=CONVENTION,
        empty=empty,
        limit=limit,
        notes=[f"{unlisted} images are not in {path.name} and left out"] if unlisted else [],
    )


def _find(root: Path, folder: str) -> tuple[Path, Path, Path]:
    """Home, folder of images, file of labels."""
    for above in HOMES:
        files = [p for form in LABELS for p in matching(root, above + form.format(folder))]
        folders = [
            p for form in IMAGES for p in matching(root, above + form.format(folder), folders=True)
        ]
        if files and folders:
            return root, folders[0], files[0]
    wanted = ", ".join(form.format(folder) for form in IMAGES)
    raise FileNotFoundError(
        f"no BDD100K with boxes ({folder}) in {str(root)!r}: looked for {wanted} with det_{folder}"
        f".json or bdd100k_labels_images_{folder}.json in labels/, in any case; {contents(root)}"
    )


def read(path: Path) -> dict[str, list[Row]]:
    """Name of an image -> its objects; kept in memory until the file changes.

    Raises ValueError for a file that is not of this format, and for two images of one name.
    """
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, *_: int) -> dict[str, list[Row]]:
    try:
        with path.open(encoding="utf-8") as file:
            found = json.load(file, object_hook=_light)
        rows: dict[str, list[Row]] = {}
        for frame in found["frames"] if isinstance(found, dict) else found:
            name = str(frame["name"])
            if name in rows:
                raise ValueError(f"two images are called {name}")
            rows[name] = [_row(entry) for entry in frame.get("labels") or [] if entry.get("box2d")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} must hold BDD100K's list of images with name and labels, got "
            f"{type(error).__name__}: {error}"
        ) from error
    return rows


def _light(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file without the outlines of lanes and drivable areas."""
    entry.pop("poly2d", None)
    return entry


def _row(entry: dict[str, Any]) -> Row:
    x1, y1, x2, y2 = (float(entry["box2d"][corner]) for corner in ("x1", "y1", "x2", "y2"))
    crowd = bool((entry.get("attributes") or {}).get("crowd"))
    return Row((x1, y1, x2 + 1, y2 + 1), str(entry["category"]), crowd)


def _annotation(record: Record, rows: dict[str, list[Row]]) -> Annotation:
    name = record.image.name
    return annotation(rows[name], NAMES, f"{str(record.source)!r} ({name})")
