"""Boxes in Pascal VOC's format: how its files are read, and sets that lie in its folders."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .boxed import Boxed, Record
from .boxes import Annotation, ClassNames, Row, annotation
from .layout import Place, contents, find_labelled, matching, natural, pictures_below

CONVENTION = "VOC, pixels from 1, last ones included: x0 = xmin - 1, x1 = xmax"
FOLDERS = ("jpegimages", "annotations")  # below a home, patterns


def read(path: Path) -> tuple[list[Row], tuple[int, int] | None]:
    """The objects of an XML file and its (height, width), None where it does not say.

    Corners may be floats; pose, truncated and difficult may be missing; difficult objects are
    ignored. Raises ValueError for a file that is not of this format.
    """
    try:
        tree = ElementTree.parse(path).getroot()
        rows = [_row(entry) for entry in tree.iter("object")]
        sides = [float(tree.findtext(f"size/{side}") or 0) for side in ("height", "width")]
    except (ElementTree.ParseError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} must be XML of Pascal VOC, with a name and xmin, ymin, xmax, ymax for "
            f"each object: {error}"
        ) from error
    return rows, (int(sides[0]), int(sides[1])) if all(sides) else None


def _row(entry: ElementTree.Element) -> Row:
    name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
    if not name or box is None:
        raise ValueError(f"an object has no {'name' if not name else 'bndbox'}")
    corners = [box.findtext(corner) for corner in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"the bndbox of a {name} lacks a corner")
    x0, y0, x1, y1 = (float(corner or "") for corner in corners)
    difficult = (entry.findtext("difficult") or "0").strip().lower() in ("1", "true")
    return Row((x0 - 1, y0 - 1, x1, y1), name, difficult)


def annotate(record: Record, names: ClassNames) -> Annotation:
    """The objects of a record whose source is an XML file."""
    rows, size = read(record.source)
    return annotation(rows, names, repr(str(record.source)), size)


def boxed(domain: str, files: Sequence[tuple[Path, Path]], **options: Any) -> Boxed:
    """A set of (picture, XML file) pairs; options as of Boxed."""
    records = [Record(*pair, image_id=number) for number, pair in enumerate(files)]
    read_one = partial(annotate, names=options["names"])
    return Boxed(domain, records, read_one, convention=CONVENTION, **options)


def counted(images: int, published: int) -> list[str]:
    """The note that a set has another number of images than is published, if so."""
    return [] if images == published else [f"{images} images, {published} as published"]


def listed_files(place: Place, path: Path) -> list[tuple[Path, Path]]:
    """(picture, XML file) of each name in a file of ImageSets, in its order.

    A line holds a name and nothing else, or -1, 0 or 1 behind it. Raises FileNotFoundError for a
    picture or XML file that is not there.
    """
    names = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        first, _, last = line.strip().rpartition(" ")
        names.append(first.strip() if last in ("-1", "0", "1") and first else line.strip())
    wanted = [name for name in names if name]
    pictures = {picture.stem: picture for picture in pictures_below(place.images)}
    missing = [name for name in wanted if name not in pictures]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(wanted)} pictures of {str(path)!r} are not in "
            f"{str(place.images)!r}, such as {missing[0]!r}"
        )
    return with_xml(place, [pictures[name] for name in wanted])


def all_files(place: Place) -> list[tuple[Path, Path]]:
    """(picture, XML file) of all pictures, in natural order; errors as `listed_files`."""
    return with_xml(place, list(pictures_below(place.images)))


def whole_set(
    domain: str,
    title: str,
    *,
    root: str | Path,
    homes: Sequence[str],
    published: int,
    names: ClassNames,
    split: str,
    empty: str,
    limit: int | None,
) -> Boxed:
    """All pictures of a set of JPEGImages and Annotations in one of the homes, patterns below root.

    title: of the set in messages; published: how many images it has; the others as of `boxed`.
    Raises FileNotFoundError (no such layout, a picture without XML file) and as Boxed.
    """
    place = find_labelled(title, root, [FOLDERS], homes)
    files = all_files(place)
    return boxed(
        domain,
        files,
        names=names,
        home=place.home,
        split=split,
        empty=empty,
        limit=limit,
        notes=counted(len(files), published),
    )


def with_xml(place: Place, pictures: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each picture with the XML file of its name; FileNotFoundError where one is not there."""
    files = {
        path.stem: path
        for pattern in ("*.xml", "*/*.xml")
        for path in sorted(matching(place.labels, pattern), key=natural)
    }
    single = [picture for picture in pictures if picture.stem not in files]
    if single:
        raise FileNotFoundError(
            f"{len(single)} of {len(pictures)} images have no boxes, such as {str(single[0])!r}: "
            f"looked for {single[0].stem}.xml in {str(place.labels)!r} (an image without objects "
            f"has a file without <object>); {contents(place.labels)}"
        )
    return [(picture, files[picture.stem]) for picture in pictures]
