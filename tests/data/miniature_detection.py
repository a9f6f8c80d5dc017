"""Writes the real detection sets in miniature: every layout, with the real file formats.

Every function fills `root` and returns it. Pictures are HEIGHT x WIDTH unless said otherwise, of
one colour, as `miniature_segmentation.write_image` makes them.
"""

import json

import cv2
import numpy as np
from miniature_segmentation import HEIGHT, WIDTH, write_image

COCO = {
    "info": {"description": "made"},
    "images": [
        {"id": 40, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 7, "file_name": "sub/b.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 9, "file_name": "c.jpg", "height": HEIGHT, "width": WIDTH},
    ],
    "annotations": [
        {"id": 1, "image_id": 40, "category_id": 18, "bbox": [4.5, 2, 10, 6.25], "area": 31.5,
         "iscrowd": 0, "segmentation": [[4.5, 2, 14.5, 2, 14.5, 8.25]]},
        {"id": 2, "image_id": 40, "category_id": 3, "bbox": [0, 0, 48, 24], "area": 900,
         "iscrowd": 1, "segmentation": {"counts": [0, 9], "size": [24, 48]}},
        {"id": 5, "image_id": 7, "category_id": 90, "bbox": [40, 20, 8, 4]},
    ],
    # not in the order of the ids, which have gaps
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 3, "name": "car", "supercategory": "vehicle"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
    ],
}  # fmt: skip


def coco(root, layout="official", splits=("train", "val"), content=COCO):
    """layout: official (annotations/), images (below images/), roboflow, flat (boxes.json)."""
    for split in splits:
        name = {"roboflow": "valid"}.get(layout, "val") if split == "val" else split
        file, folder = {
            "official": (f"annotations/instances_{name}2017.json", f"{name}2017"),
            "images": (f"annotations/{name}.json", f"images/{name}"),
            "roboflow": (f"{name}/_annotations.coco.json", name),
            "flat": ("boxes.json", "."),
        }[layout]
        for number, entry in enumerate(content["images"]):
            write_image(root / folder / entry["file_name"], number)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content))
    return root


def xml(objects, size=(HEIGHT, WIDTH), *, tags=True):
    """Text of a VOC file; objects: (name, xmin, ymin, xmax, ymax[, difficult])."""
    text = "<annotation><folder>VOC2007</folder>"
    if size:
        text += f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    for name, x0, y0, x1, y1, *difficult in objects:
        text += f"<object><name>{name}</name>"
        if tags:
            text += "<pose>Left</pose><truncated>0</truncated>"
        if difficult:
            text += f"<difficult>{difficult[0]}</difficult>"
        text += f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        text += "</bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    return text + "</annotation>"


VOC = {  # stem -> objects
    "a_1": [("car", 5, 3, 14, 8, 0), ("Person", 1, 1, 48, 24, 1)],
    "a_2": [],
    "a_10": [("car", 2.5, 3.5, 4, 9), ("person", 10, 10, 10, 10)],
}


def voc(folder, files=None, lists=None, *, images="JPEGImages", labels="Annotations", **options):
    """files: stem -> objects. lists: name of a list in ImageSets/Main -> stems."""
    for number, (stem, objects) in enumerate((VOC if files is None else files).items()):
        write_image(folder / images / f"{stem}.jpg", number)
        path = folder / labels / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(xml(objects, **options))
    for name, lines in (lists or {}).items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder


YOLO = {  # stem -> text, None: no file
    "a": "1 0.25 0.5 0.125 0.25\n0 0.5 0.5 1 1\n",
    "b": "",
    "c": None,
    "d": "0 0.1 0.25 0.5 0.25 0.5 0.75 0.25 0.5\n",  # an outline
}


def yolo(root, splits=("train", "val"), *, below=True, files=None):
    """below: images/train; else train/images, val as Roboflow's valid; no splits: flat."""
    for split in splits or (".",):
        name = "valid" if split == "val" and not below else split
        for number, (stem, text) in enumerate((YOLO if files is None else files).items()):
            images, labels = (
                root / (f"{kind}/{name}" if below else f"{name}/{kind}")
                for kind in ("images", "labels")
            )
            write_image(images / f"{stem}.jpg", number)
            labels.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (labels / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['tree', \"ox cart\"]\n")
    return root


def instance_ids(number=0):
    """16-bit values: cars 26001 and 26002, a person 24000, groups of persons and of cars, a wall
    (12) and a licence plate.
    """
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[0:4, 0:10] = 12
    values[4:10, 2:12] = 26001
    values[6:8, 4:6] = 24000  # in front of the car
    values[12:20, 30 + number : 40] = 26002
    values[20:22, 40:44] = 24  # a group of persons in two regions
    values[2:5, 44:48] = 24
    values[15:16, 0:3] = 26
    values[16:17, 3:4] = 26  # touches by a corner
    values[23, 47] = 65535  # 255 of labelIds does not occur, -1 may
    return values


def cityscapes_instances(root, splits=("train", "val")):
    """instanceIds beside the labels of `miniature_segmentation.cityscapes`."""
    for split in splits:
        for label in sorted((root / "gtFine" / split).rglob("*_gtFine_labelIds.png")):
            path = label.with_name(label.name.replace("labelIds", "instanceIds"))
            number = int("_000001_" in label.name)
            values = instance_ids(number) if number == 0 else np.full_like(instance_ids(), 7)
            assert cv2.imwrite(str(path), values)
    return root


def bdd_label(category, x1, y1, x2, y2, **attributes):
    box = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return {"category": category, "attributes": attributes, "box2d": box, "id": 0}


BDD_OLD = [
    {"name": "b1.jpg", "attributes": {"timeofday": "night"}, "labels": [
        bdd_label("bike", 3.5, 4, 9.5, 11), bdd_label("person", 0, 0, 1, 1, occluded=True),
        {"category": "lane", "poly2d": [{"vertices": [[1, 2], [3, 4]]}], "id": 3},
    ]},
    {"name": "b0.jpg", "labels": [bdd_label("traffic light", 10, 2, 12, 6)]},
]  # fmt: skip
BDD_NEW = [
    {"name": "b1.jpg", "labels": [
        bdd_label("pedestrian", 0, 0, 1, 1, crowd=True),
        bdd_label("other vehicle", 5, 5, 20, 20), bdd_label("bicycle", 3, 4, 9, 11),
    ]},
    {"name": "b0.jpg", "labels": None},
]  # fmt: skip


def bdd100k(root, *, newer=False, splits=("train", "val")):
    for split in splits:
        for number in range(3):
            write_image(root / "images" / "100k" / split / f"b{number}.jpg", number)
        name = f"det_20/det_{split}" if newer else f"bdd100k_labels_images_{split}"
        path = root / "labels" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(BDD_NEW if newer else BDD_OLD))
    return root


DWD_FOLDERS = ("daytime_clear", "daytime_foggy", "dusk_rainy", "night_rainy", "night_sunny")


def dwd(root):
    """Every folder with three images; train.txt has two of them, the source's test.txt one."""
    for number, name in enumerate(DWD_FOLDERS):
        files = {
            f"{name}-{i}": [("bike", 1, 1, 2 + number, 4), ("train", 1, 1, 9, 9)] for i in range(3)
        }
        stems = list(files)
        lists = {"train": stems[:2]}
        if name == "daytime_clear":
            lists["test"] = stems[2:]
        voc(root / name / "VOC2007", files, lists, tags=False)
    return root
