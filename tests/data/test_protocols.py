import subprocess
import sys

import cv2
import numpy as np
import pytest

from ibnvision.data.protocols import PROTOCOLS, row_of
from ibnvision.data.resize import fit, resize, resize_label


def made(height, width):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.integers(0, 19, (height, width), np.uint8)


@pytest.mark.parametrize(
    "protocol, kind, size, shown, scored",
    [
        ("native", "", (1052, 1914), (1052, 1914), (1052, 1914)),
        ("native", "cityscapes", (1024, 2048), (1024, 2048), (1024, 2048)),
        ("native", "bdd100k", (720, 1280), (720, 1280), (720, 1280)),
        ("native", "mapillary", (2448, 3264), (1536, 1536), (1536, 1536)),
        ("native", "mapillary", (3264, 2448), (1536, 1536), (1536, 1536)),
        ("half", "", (1052, 1914), (526, 957), (1052, 1914)),
        ("half", "", (1080, 1920), (540, 960), (1080, 1920)),
        ("half", "cityscapes", (1024, 2048), (512, 1024), (1024, 2048)),
        ("half", "bdd100k", (720, 1280), (720, 1280), (720, 1280)),
        ("half", "mapillary", (2448, 3264), (512, 683), (1224, 1632)),
        ("half", "mapillary", (3264, 2448), (683, 512), (1632, 1224)),
        ("half", "mapillary", (1001, 4001), (256, 1024), (500, 2000)),
    ],
)
def test_sizes(protocol, kind, size, shown, scored):
    image, label = row_of(protocol, kind).view(*made(*size))
    assert image.shape == (*shown, 3) and label.shape == scored
    assert image.dtype == label.dtype == np.uint8


def test_native_is_untouched_and_half_of_an_even_picture_is_the_mean_of_four():
    image, label = made(40, 60)
    shown, scored = row_of("native", "").view(image, label)
    assert shown is image and scored is label
    shown, _ = row_of("half", "").view(image, label)
    mean = image.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert abs(shown - mean).max() <= 0.5


def test_centre_square_is_the_centre():
    image, label = np.zeros((1536, 3000, 3), np.uint8), np.zeros((1536, 3000), np.uint8)
    image[:, 732:2268] = 200
    label[:, 732:2268] = 5
    shown, scored = row_of("native", "mapillary").view(image, label)
    assert (shown == 200).all() and (scored == 5).all()


def test_labels_take_the_nearest_pixel_and_images_the_mean_where_antialiased():
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert resize_label(label, (2, 2)).tolist() in ([[5, 7], [13, 15]], [[0, 2], [8, 10]])
    lines = np.zeros((32, 32, 3), np.uint8)
    lines[:, ::4] = 240
    for how in ("bilinear antialiased", "bicubic antialiased"):
        small = resize(lines, (8, 8), how)
        assert abs(small[2:6, 2:6].astype(int) - 60).max() < 8
    assert resize(lines, (8, 8), "bilinear").std() < 1  # samples of lines that all miss
    with pytest.raises(KeyError):
        resize(lines, (8, 8), "nearest")
    enlarged = resize(lines, (64, 64), "bilinear antialiased")
    plain = cv2.resize(lines, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert abs(enlarged.astype(int) - plain).max() <= 1
    assert fit((100, 300), 512, 1024) == (341, 1024) and fit((512, 512), 512, 1024) == (512, 512)


def test_table():
    assert list(PROTOCOLS) == ["native", "half"]
    for rows in PROTOCOLS.values():
        assert "" in rows and all(row.input for row in rows.values())
    assert row_of("half", "gtav") is PROTOCOLS["half"][""]
    with pytest.raises(KeyError, match="unknown protocol 'full' .known: native, half"):
        row_of("full", "")


def test_the_table_needs_no_opencv():
    code = "import sys; sys.modules['cv2'] = None; import ibnvision.data.protocols as p; print(p)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "protocols" in done.stdout, done.stderr
