"""Writes the real segmentation sets in miniature: every layout, with the real file formats.

Every function fills `root` and returns it. Pictures are HEIGHT x WIDTH; the label of picture i is
`ids(i)` in vertical stripes, so that `train_ids(i)` is what must come out.
"""

import json

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


BDD_LAYOUTS = {
    "rein": ("images/10k", "labels/sem_seg/masks", ""),
    "shade": ("images/10k", "labels/semseg/masks", ""),
    "robustnet": ("images", "labels", "_train_id"),
}


def bdd100k(root, layout="rein", splits=("train", "val")):
    images, labels, end = BDD_LAYOUTS[layout]
    for split in splits:
        for number in (0, 1):
            write_image(root / images / split / f"b1c66a42-6f7d68c{number}.jpg", number)
            name = f"b1c66a42-6f7d68c{number}{end}.png"
            write_grey(root / labels / split / name, train_ids(number))
    return root


SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)


def synthia(root, *, folders=False, train_id_files=False):
    """16-bit RGB labels: class, instance, 0."""
    for number in range(3):
        place = (("val" if number == 2 else "train"),) if folders else ()
        write_image(root.joinpath("RGB", *place, f"000000{number}.png"), number)
        label = root.joinpath("GT", "LABELS", *place, f"000000{number}.png")
        label.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
        values[..., 2] = raw_ids(number, SYNTHIA_IDS, ignored=22)  # BGR: the first channel
        values[..., 1] = 700 + number  # instances need more than 8 bits
        assert cv2.imwrite(str(label), values)
        if train_id_files:
            write_grey(label.with_name(f"{label.stem}_labelTrainIds.png"), train_ids(number))
    return root


MAPILLARY_NAMES = (
    "animal--bird", "animal--ground-animal", "construction--barrier--curb",
    "construction--barrier--fence", "construction--barrier--guard-rail",
    "construction--barrier--other-barrier", "construction--barrier--wall",
    "construction--flat--bike-lane", "construction--flat--crosswalk-plain",
    "construction--flat--curb-cut", "construction--flat--parking",
    "construction--flat--pedestrian-area", "construction--flat--rail-track",
    "construction--flat--road", "construction--flat--service-lane",
    "construction--flat--sidewalk", "construction--structure--bridge",
    "construction--structure--building", "construction--structure--tunnel", "human--person",
    "human--rider--bicyclist", "human--rider--motorcyclist", "human--rider--other-rider",
    "marking--crosswalk-zebra", "marking--general", "nature--mountain", "nature--sand",
    "nature--sky", "nature--snow", "nature--terrain", "nature--vegetation", "nature--water",
    "object--banner", "object--bench", "object--bike-rack", "object--billboard",
    "object--catch-basin", "object--cctv-camera", "object--fire-hydrant", "object--junction-box",
    "object--mailbox", "object--manhole", "object--phone-booth", "object--pothole",
    "object--street-light", "object--support--pole", "object--support--traffic-sign-frame",
    "object--support--utility-pole", "object--traffic-light", "object--traffic-sign--back",
    "object--traffic-sign--front", "object--trash-can", "object--vehicle--bicycle",
    "object--vehicle--boat", "object--vehicle--bus", "object--vehicle--car",
    "object--vehicle--caravan", "object--vehicle--motorcycle", "object--vehicle--on-rails",
    "object--vehicle--other-vehicle", "object--vehicle--trailer", "object--vehicle--truck",
    "object--vehicle--wheeled-slow", "void--car-mount", "void--ego-vehicle", "void--unlabeled",
)  # fmt: skip
# An id that both maps give each trainId; 65 is unlabelled.
MAPILLARY_IDS = (13, 15, 17, 6, 3, 45, 48, 50, 30, 29, 27, 19, 20, 55, 61, 54, 58, 57, 52)


def mapillary(root, *, version_folder=False, splits=("training", "validation"), names=None):
    """`version_folder`: as in the v2.0 archive, v1.2/labels and config_v1.2.json."""
    inner = "v1.2/labels" if version_folder else "labels"
    for split in splits:
        for number in (0, 1):
            write_image(root / split / "images" / f"pic{number}_aZ-.jpg", number)
            values = raw_ids(number, MAPILLARY_IDS, ignored=65)
            write_palette(root / split / inner / f"pic{number}_aZ-.png", values, {13: COLORS[0]})
    labels = [
        {"color": [i, 2 * i, 40], "instances": False, "readable": name, "name": name}
        for i, name in enumerate(MAPILLARY_NAMES if names is None else names)
    ]
    config = root / ("config_v1.2.json" if version_folder else "config.json")
    config.write_text(json.dumps({"labels": labels, "version": "1.2"}))
    return root


def acdc(root, *, wrapped=False, train_id_files=True):
    """One picture each of train and val in every condition."""
    images = "rgb_anon_trainvaltest/rgb_anon" if wrapped else "rgb_anon"
    labels = "gt_trainval/gt" if wrapped else "gt"
    for number, condition in enumerate(("fog", "night", "rain", "snow")):
        for split in ("train", "val"):
            place, frame = f"{condition}/{split}/GOPR047{number}", f"GOPR047{number}_frame_000001"
            write_image(root / images / place / f"{frame}_rgb_anon.png", number)
            write_grey(root / labels / place / f"{frame}_gt_labelIds.png", raw_ids(number))
            if train_id_files:
                label = root / labels / place / f"{frame}_gt_labelTrainIds.png"
                write_grey(label, train_ids(number))
    return root


def urbansyn(root):
    for number in (1, 2):
        write_image(root / "rgb" / f"rgb_000{number}.png", number)
        write_grey(root / "ss" / f"ss_000{number}.png", raw_ids(number, range(19), ignored=19))
    return root


OWN = {"sand": (200, 180, 90), "road": (128, 64, 128), "sea": (0, 10, 200)}


def image_mask_folder(root, splits=(), *, below=False, masks="grey", palette_json=False):
    """Two pictures a split, classes in stripes, the last one ignored.

    below: images/train/ in place of train/images/. masks: grey, palette or colors (RGB).
    """
    for split in splits or (".",):
        for number in (0, 1):
            values = np.repeat(np.array([number, 1, 2, 255], np.uint8), 12)[None].repeat(24, 0)
            place = {k: root / (f"{k}/{split}" if below else f"{split}/{k}") for k in _OWN_FOLDERS}
            write_image(place["images"] / f"a{number}.jpg", number)
            mask = place["masks"] / f"a{number}.png"
            if masks == "grey":
                write_grey(mask, values)
            elif masks == "palette":
                write_palette(mask, values, dict(enumerate(OWN.values())))
            else:
                table = np.full((256, 3), 255, np.uint8)
                table[:3] = list(OWN.values())
                write_grey(mask, table[values])
    if palette_json:
        (root / "palette.json").write_text(json.dumps({**OWN, "ignored": (255, 255, 255)}))
    else:
        (root / "classes.txt").write_text("\n".join(OWN) + "\n")
    return root


_OWN_FOLDERS = ("images", "masks")
