"""A drawn set of detections like those of a real one, and what pycocotools says of it.

`python tests/metrics/detection_case.py > tests/metrics/golden/pycocotools.json` records that.
"""

import contextlib
import io
import json
import sys

import numpy as np
import torch

CLASSES = ("car", "person", "rider", "bus", "train", "absent")
IMAGES, WIDTH, HEIGHT = 60, 640, 480


def draw_case(seed=7):
    """Predictions and targets of 60 images: crowds, empty images, equal scores, all sizes.

    Everything is a multiple of 1/64, so that no rounding differs between float32 and float64.
    RandomState, since its streams never change.
    """
    random = np.random.RandomState(seed)
    pairs = [_image(random, i) for i in range(IMAGES)]
    return [p for p, _ in pairs], [t for _, t in pairs]


def _boxes(random, count):
    size = np.exp(random.uniform(np.log(6), np.log(400), (count, 2)))
    size = size * np.exp(random.uniform(-0.1, 0.1, (count, 2)))
    begin = random.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return _clipped(np.concatenate([begin, begin + size], 1))


def _clipped(boxes):
    boxes = np.round(boxes * 4) / 4
    limit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    boxes = boxes.clip(0, limit)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.25)
    return boxes


def _image(random, index):
    crowded = index == 5  # more than 100 detections of one class
    count = 0 if index % 7 == 3 else 40 if crowded else random.randint(1, 13)
    boxes, labels = _boxes(random, count), random.choice(5, count, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    labels = np.zeros(count, int) if crowded else labels
    ignore = random.uniform(size=count) < 0.08
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.round(sides.prod(1) * random.uniform(0.5, 1, count) * 4) / 4
    target = _tensors(boxes=boxes, labels=labels + 1, area=area) | {
        "ignore": torch.from_numpy(ignore),
        "image_id": torch.tensor(index),
    }
    seen = np.flatnonzero(random.uniform(size=count) < 0.85)
    seen = np.concatenate([seen, seen[random.uniform(size=len(seen)) < 0.2]])  # some twice
    blur = random.choice([0.02, 0.08, 0.25], (len(seen), 1))
    found = boxes[seen] + random.randn(len(seen), 4) * blur * np.tile(sides[seen], 2)
    strange = _boxes(random, 130 if crowded else random.poisson(4))
    guessed = np.zeros(len(strange), int) if crowded else random.choice(6, len(strange))
    wrong = random.uniform(size=len(seen)) < 0.08
    named = np.where(wrong, random.choice(5, len(seen)), labels[seen])
    scores = [0.9 - blur[:, 0] + random.randn(len(seen)) * 0.2, random.beta(1, 3, len(strange))]
    scores = np.round(np.concatenate(scores).clip(0.02, 1) * 64) / 64
    order = random.permutation(len(scores)) if index % 11 else np.arange(0)  # some give nothing
    prediction = _tensors(
        boxes=_clipped(np.concatenate([found, strange]))[order],
        labels=np.concatenate([named, guessed])[order] + 1,
        scores=scores[order],
    )
    return prediction, target


def _tensors(**columns):
    return {
        name: torch.from_numpy(np.asarray(value)).to(
            torch.int64 if name == "labels" else torch.float32
        )
        for name, value in columns.items()
    }


def pycocotools_answers(predictions, targets):
    """Its twelve numbers, and by class AP and AP50, as fractions; None where it says -1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), []
    rows = []
    for image, (prediction, target) in enumerate(zip(predictions, targets, strict=True), 1):
        for box, label, area, ignore in zip(
            *(target[k].tolist() for k in ("boxes", "labels", "area", "ignore")), strict=True
        ):
            row = {"image_id": image, "category_id": label, "bbox": _sides(box)}
            rows.append(row | {"id": len(rows) + 1, "area": area, "iscrowd": int(ignore)})
        for box, label, score in zip(
            *(prediction[k].tolist() for k in ("boxes", "labels", "scores")), strict=True
        ):
            row = {"image_id": image, "category_id": label, "bbox": _sides(box)}
            found.append(row | {"score": score})
    truth.dataset = {
        "images": [{"id": 1 + i} for i in range(len(targets))],
        "categories": [{"id": 1 + i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": rows,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return {
        "summary": [_defined(value) for value in evaluation.stats],
        "ap": {c: _defined(precision[:, :, i].mean()) for i, c in enumerate(CLASSES)},
        "ap50": {c: _defined(precision[0, :, i].mean()) for i, c in enumerate(CLASSES)},
    }


def _sides(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _defined(value):
    return None if value == -1 else float(value)


if __name__ == "__main__":
    json.dump(pycocotools_answers(*draw_case()), sys.stdout, indent=1)
    print()
