"""Streets on disk: `write_set` fills a folder, `contact_sheet` draws scenes in all domains.

DIR/images/000000.png   RGB            DIR/masks/000000.png   class index, 255 ignored
DIR/depth/000000.png    16 bit, cm     DIR/boxes.json         COCO with 3-D fields and camera
DIR/contact_sheet.png
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from .names import CLASSES, color_mask
from .opencv import cv2
from .shifts import APPEARANCE_HASH
from .streets import (
    BOX_CLASSES,
    DOMAIN_SHIFTS,
    GENERATOR_VERSION,
    Scene,
    Streets,
    appearance_rng,
    render,
    scene,
)
from .streets_boxes import hidden
from .streets_canvas import FAR_M

BOX_COLORS = ((255, 220, 0), (255, 120, 0), (0, 255, 120), (0, 200, 255))
CAPTION_PX = 18


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Depth in metres [H, W] as a grey picture uint8 [H, W, 3], logarithmic, far is white."""
    grey = 255 * np.log1p(depth) / np.log1p(FAR_M)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def draw_boxes(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Copy of an RGB picture uint8 [H, W, 3] with the 2-D boxes of a scene, a colour per class."""
    drawn = np.array(image, order="C")
    for box in boxes:
        x0, y0, x1, y1 = np.round(box["xyxy"]).astype(int).tolist()
        color = BOX_COLORS[int(box["category"])]
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), color, 1)
    return drawn


def contact_sheet(
    *, seed: int, count: int, height: int, width: int, domains: tuple[str, ...] | None = None
) -> np.ndarray:
    """RGB picture uint8: a row per scene; columns are the domains, boxes, mask and depth."""
    domains = tuple(DOMAIN_SHIFTS) if domains is None else domains
    titles = [*(d.removeprefix("streets_") for d in domains), "boxes", "mask", "depth"]
    header = np.full((CAPTION_PX, width * len(titles), 3), 255, np.uint8)
    for i, title in enumerate(titles):
        at = (i * width + 4, CAPTION_PX - 5)
        cv2.putText(header, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    rows = [header]
    for index in range(count):
        s = scene(index, seed=seed, height=height, width=width)
        pictures = [render(s, d, appearance_rng(seed, index, d)) for d in domains]
        plain = render(s, "streets_day", appearance_rng(seed, index, "streets_day"))
        extra = [draw_boxes(plain, s.boxes), color_mask(s.label), depth_picture(s.depth)]
        rows.append(np.concatenate(pictures + extra, axis=1))
    return np.concatenate(rows)


def _write_png(path: Path, array: np.ndarray) -> None:
    if not cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array):
        raise OSError(f"cannot write {str(path)!r}: is the disk full or the folder read-only?")


def _annotations(s: Scene, image_id: int, first_id: int) -> list[dict]:
    found = []
    ignored = hidden(s)
    for number, box in enumerate(s.boxes):
        x0, y0, x1, y1 = (round(float(v), 3) for v in box["xyxy"])
        found.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": int(box["category"]) + 1,
                "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
                "area": round((x1 - x0) * (y1 - y0), 3),
                "iscrowd": 0,
                "ignore": int(ignored[number]),
                "center_m": [round(float(v), 4) for v in box["center"]],
                "size_whl_m": [round(float(v), 4) for v in box["size"]],
                "yaw_rad": round(float(box["yaw"]), 5),
                "occlusion": round(float(box["occlusion"]), 4),
                "truncation": round(float(box["truncation"]), 4),
            }
        )
    return found


def _fill(folder: Path, data: Streets, preset: str) -> None:
    for name in ("images", "masks", "depth"):
        (folder / name).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(len(data)):
        s = data.scene(index)
        image, label = data.picture(index)
        name = f"{index:06d}.png"
        _write_png(folder / "images" / name, image)
        _write_png(folder / "masks" / name, label)
        _write_png(folder / "depth" / name, np.round(s.depth * 100).astype(np.uint16))
        images.append(
            {
                "id": index,
                "file_name": f"images/{name}",
                "width": data.width,
                "height": data.height,
                "camera": s.camera.round(6).tolist(),
                "camera_height_m": round(s.camera_height, 6),
            }
        )
        annotations += _annotations(s, index, len(annotations))
    facts = {
        "info": {
            "domain": data.domain,
            "split": data.split,
            "preset": preset,
            "seed": data.seed,
            "generator_version": GENERATOR_VERSION,
            "appearance_hash": APPEARANCE_HASH,
            "fingerprint": data.fingerprint(),
            "mask_classes": list(CLASSES),
            "conventions": "bbox x, y, width, height in pixels with hidden parts; camera axes "
            "x right, y down, z forward; yaw 0 heads along z, pi/2 along x; ignore: hardly to be "
            "seen",
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(BOX_CLASSES)],
    }
    (folder / "boxes.json").write_text(json.dumps(facts, indent=1))
    rows = min(6, len(data))
    sheet = contact_sheet(seed=data.seed, count=rows, height=data.height, width=data.width)
    _write_png(folder / "contact_sheet.png", sheet)


def write_set(
    out: str | Path,
    domain: str = "streets_day",
    preset: str = "quick",
    split: str = "train",
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a streets domain to the folder `out` (layout above) and return it.

    The folder appears under its name only when complete. Raises FileExistsError if it exists and
    `overwrite` is off, ValueError if it exists and is neither empty nor such a set, OSError if a
    file cannot be written; and what `Streets` raises for domain, split, preset and limit.
    """
    out = Path(out).expanduser()
    data = Streets(domain, split, preset=preset, size=size, limit=limit)
    if out.exists():
        if not overwrite:
            raise FileExistsError(f"{str(out)!r} exists: choose another folder or overwrite it")
        if not out.is_dir() or (any(out.iterdir()) and not (out / "boxes.json").is_file()):
            raise ValueError(
                f"{str(out)!r} is not a set written before (no boxes.json in it): not overwritten"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh = stage / "new"
        fresh.mkdir()
        _fill(fresh, data, preset)
        if out.exists():
            os.replace(out, stage / "old")
        os.replace(fresh, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out
