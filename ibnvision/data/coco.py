"""Boxes in COCO's format: how its files are read."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .boxes import Row


class Content(NamedTuple):
    """What a file holds: id -> name of its categories, image id -> (file_name, (height, width)),
    image id -> its objects, sentences about what is wrong with the whole.
    """

    categories: Mapping[int, str]
    images: Mapping[int, tuple[str, tuple[int, int] | None]]
    rows: Mapping[int, list[Row]]
    problems: list[str]


def read(path: Path) -> Content:
    """What a file of COCO's format holds; kept in memory until the file changes.

    Raises ValueError for a file that is not of this format, and for two images of one id.
    """
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, *_: int) -> Content:
    try:
        with path.open(encoding="utf-8") as file:
            found = json.load(file, object_hook=_light)
        categories = {int(row["id"]): str(row["name"]) for row in found["categories"]}
        images: dict[int, tuple[str, tuple[int, int] | None]] = {}
        for row in found["images"]:
            number = int(row["id"])
            if number in images:
                raise ValueError(f"two images have the id {number}")
            sides = row.get("height"), row.get("width")
            size = (int(sides[0]), int(sides[1])) if all(sides) else None
            images[number] = str(row["file_name"]), size
        rows, problems = _rows(path, found.get("annotations") or [], categories, images)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} must hold COCO's images, annotations and categories, got "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(categories) < len(found["categories"]):
        problems.append(f"{str(path)!r} has two categories of one id")
    above = _above(found["categories"])
    used = {entry.get("category_id") for entry in found.get("annotations") or []}
    kept = {n: name for n, name in categories.items() if n != above or n in used}
    return Content(kept, images, rows, problems)


def _light(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file without its outline, which is most of it."""
    entry.pop("segmentation", None)
    return entry


def _rows(
    path: Path, found: list[dict], categories: Mapping[int, str], images: Mapping[int, Any]
) -> tuple[dict[int, list[Row]], list[str]]:
    rows: dict[int, list[Row]] = {number: [] for number in images}
    problems, seen, twice, lost = [], set(), 0, 0
    for entry in found:
        twice += entry.get("id") in seen and entry.get("id") is not None
        seen.add(entry.get("id"))
        objects = rows.get(int(entry["image_id"]))
        if objects is None:
            lost += 1
            continue
        if not entry.get("bbox"):
            problems.append(f"{str(path)!r} has an object without bbox (id {entry.get('id')})")
            continue
        x, y, width, height = map(float, entry["bbox"])
        category = int(entry["category_id"])
        objects.append(
            Row(
                (x, y, x + width, y + height),
                categories.get(category, f"category {category}"),
                bool(entry.get("iscrowd") or entry.get("ignore")),
                None if entry.get("area") is None else float(entry["area"]),
            )
        )
    if twice:
        problems.append(f"{str(path)!r} has {twice} objects of an id that another one has")
    if lost:
        problems.append(f"{str(path)!r} has {lost} objects of images that it does not list")
    return rows, problems


def _above(categories: list[dict]) -> int | None:
    """The id of the category that is the supercategory of all others, if there is one."""
    for row in categories:
        others = [other.get("supercategory") for other in categories if other is not row]
        if others and set(others) == {row["name"]}:
            return int(row["id"])
    return None
