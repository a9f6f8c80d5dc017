"""Writes the real segmentation sets in miniature: every layout, with the real file formats.

Every function fills `root` and returns it. Pictures are HEIGHT x WIDTH; the label of picture i is
`ids(i)` in vertical stripes, so that `train_ids(i)` is what must come out.
"""

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 48
CITIES = {"train": ("aachen", "bochum"), "val": ("munster",)}
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
    (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


def train_ids(number, size=(HEIGHT, WIDTH)):
    """TrainIds uint8 [H, W]: eight stripes of six columns, the last one ignored."""
    stripes = [(number + i) % 19 for i in range(7)] + [255]
    return np.repeat(np.array(stripes, np.uint8), size[1] // 8)[None].repeat(size[0], 0)


def raw_ids(number, scored=CITYSCAPES_IDS, ignored=0, size=(HEIGHT, WIDTH)):
    """As `train_ids` in the ids of a set: `scored[trainId]`, and `ignored` for 255."""
    table = np.full(256, ignored, np.uint8)
    table[: len(scored)] = scored
    return table[train_ids(number, size)]


def write_image(path, number, size=(HEIGHT, WIDTH)):
    """RGB of one colour, (10 number, 80, 40), as PNG or JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.empty((*size, 3), np.uint8)
    picture[:] = (40, 80, 10 * number)  # BGR
    assert cv2.imwrite(str(path), picture)


def write_grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_palette(path, values, colors):
    """Values uint8 [H, W] as a palette PNG with {value: RGB}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values).convert("P")
    flat = np.zeros((256, 3), np.uint8)
    for value, color in colors.items():
        flat[value] = color
    picture.putpalette(flat.ravel().tolist())
    picture.putdata(values.ravel().tolist())
    picture.save(path)


def cityscapes(root, *, wrapped=False, train_id_files=False, splits=("train", "val")):
    """Two frames a city; `wrapped` in RobustNet's folders; labels in ids or trainIds."""
    images = "leftImg8bit_trainvaltest/leftImg8bit" if wrapped else "leftImg8bit"
    labels = "gtFine_trainvaltest/gtFine" if wrapped else "gtFine"
    for split in splits:
        for city in CITIES[split]:
            for number in (0, 1):
                frame = f"{city}_00000{number}_000019"
                write_image(root / images / split / city / f"{frame}_leftImg8bit.png", number)
                folder = root / labels / split / city
                write_grey(folder / f"{frame}_gtFine_labelIds.png", raw_ids(number))
                write_image(folder / f"{frame}_gtFine_color.png", number)
                if train_id_files:
                    write_grey(folder / f"{frame}_gtFine_labelTrainIds.png", train_ids(number))
    return root


def cityscapes_foggy(root, *, wrapped=False):
    """The val frames of `cityscapes` in three densities of fog; the labels are there already."""
    images = "leftImg8bit_trainvaltest_foggy/leftImg8bit_foggy" if wrapped else "leftImg8bit_foggy"
    for number in (0, 1):
        for place, beta in enumerate(("0.005", "0.01", "0.02")):
            name = f"munster_00000{number}_000019_leftImg8bit_foggy_beta_{beta}.png"
            write_image(root / images / "val" / "munster" / name, 10 * place + number)
    return root


GTAV_COLORS = {0: (0, 0, 0), **dict(zip(CITYSCAPES_IDS, COLORS, strict=True)), 34: (0, 0, 142)}
GTAV_SPLIT = {"train": (1, 2, 12160), "val": (3,), "test": (4,)}


def gtav_label(path, number, *, colors=False):
    values = raw_ids(number)
    if not colors:
        return write_palette(path, values, GTAV_COLORS)
    table = np.zeros((256, 3), np.uint8)
    for value, color in GTAV_COLORS.items():
        table[value] = color
    return write_grey(path, table[values])


def gtav_flat(root, *, split_mat="", colors=False, train_id_files=False):
    """images/00001.png; `split_mat` names the folder of split.mat, "." for the set's."""
    for number in sorted(n for numbers in GTAV_SPLIT.values() for n in numbers):
        write_image(root / "images" / f"{number:05}.png", number % 10)
        gtav_label(root / "labels" / f"{number:05}.png", number % 10, colors=colors)
        if train_id_files:
            write_grey(root / "labels" / f"{number:05}_labelTrainIds.png", train_ids(number % 10))
    if split_mat:
        from scipy.io import savemat

        (root / split_mat).mkdir(exist_ok=True)
        ids = {f"{k}Ids": np.array(v, np.uint16)[:, None] for k, v in GTAV_SPLIT.items()}
        savemat(root / split_mat / "split.mat", ids)
    return root


def gtav_folders(root, *, colors=True):
    """RobustNet's images/{train,valid,test}/<folder>/00001.png."""
    for split, numbers in GTAV_SPLIT.items():
        for number in numbers:
            place = ("valid" if split == "val" else split, "01", f"{number:05}.png")
            write_image(root.joinpath("images", *place), number % 10)
            gtav_label(root.joinpath("labels", *place), number % 10, colors=colors)
    return root
