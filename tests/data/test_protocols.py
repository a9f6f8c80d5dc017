import cv2
import numpy as np
import pytest
from PIL import Image

from ibnvision.data.protocols import PROTOCOLS, row_of
from ibnvision.data.resize import fit, resize, resize_label, resize_label_part, resize_part


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


def test_resizing():
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert resize_label(label, (2, 2)).tolist() == [[5, 7], [13, 15]]  # the centre is on an edge
    random = made(37, 53)[1]
    for size in ((20, 30), (80, 100), (37, 11)):
        exact = cv2.resize(random, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        np.testing.assert_array_equal(resize_label(random, size), exact)
    lines = np.zeros((32, 32, 3), np.uint8)
    lines[:, ::4] = 240
    assert abs(resize(lines, (8, 8), antialias=True)[2:6, 2:6].astype(int) - 60).max() < 8
    assert resize(lines, (8, 8), antialias=False).std() < 1  # samples that all miss the lines
    assert fit((100, 300), 512, 1024) == (341, 1024) and fit((512, 512), 512, 1024) == (512, 512)


@pytest.mark.parametrize("size", [(20, 31), (37, 53), (90, 100)])
def test_a_part_is_the_part_of_the_whole(size):
    image, label = made(37, 53)
    rows, columns = range(5, 18), range(7, 29)
    part = resize_part(image, size, rows, columns)
    whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    whole = np.array(whole)[5:18, 7:29].astype(int)
    assert abs(part - whole).max() <= 1  # of 255
    expected = resize_label(label, size)[5:18, 7:29]
    np.testing.assert_array_equal(resize_label_part(label, size, rows, columns), expected)


def test_table():
    assert list(PROTOCOLS) == ["native", "half"]
    for rows in PROTOCOLS.values():
        assert "" in rows and all(row.input for row in rows.values())
    assert row_of("half", "gtav") is PROTOCOLS["half"][""]
    with pytest.raises(KeyError, match="unknown protocol 'full' .known: native, half"):
        row_of("full", "")
