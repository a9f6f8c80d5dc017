"""The tables beside lists that were typed a second time, by name."""

import numpy as np
import pytest
from miniature_segmentation import write_grey, write_palette
from PIL import Image

from ibnvision.data import CITYSCAPES
from ibnvision.data.label_maps import LABEL_MAPS, decode, from_colors, read_values

CITYSCAPES_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
SYNTHIA_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7,
    "car": 8, "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12,
    "traffic light": 15, "terrain": 16, "rider": 17, "truck": 18, "bus": 19, "train": 20,
    "wall": 21,
}  # fmt: skip


@pytest.mark.parametrize(
    "name, ids, highest",
    [
        ("train_ids", {c: i for i, c in enumerate(CITYSCAPES)}, 18),
        ("urbansyn_ids", {c: i for i, c in enumerate(CITYSCAPES)}, 19),
        ("cityscapes_ids", CITYSCAPES_IDS, 33),
        ("gtav_ids", CITYSCAPES_IDS, 34),
        ("synthia_ids", SYNTHIA_IDS, 22),
    ],
)
def test_every_value(name, ids, highest):
    expected = np.full(256, -1)
    expected[: highest + 1] = expected[255] = 255
    for index, label in enumerate(CITYSCAPES):
        expected[ids[label]] = index
    np.testing.assert_array_equal(LABEL_MAPS[name].table, expected)


def test_a_name_that_says_train_ids_decides(tmp_path):
    values = np.array([[7, 255]], np.uint8)
    expected = {"a.png": 0, "a_labelTrainIds.png": 7, "a_train_id.png": 7, "a_labelIds.png": 0}
    for name, value in expected.items():
        write_grey(tmp_path / name, values)
        assert decode(tmp_path / name, LABEL_MAPS["cityscapes_ids"]).tolist() == [[value, 255]]


def test_palettes_give_indices_and_other_files_are_refused(tmp_path):
    values, path = np.array([[0, 7, 40, 255]], np.uint8), tmp_path / "a.png"
    write_palette(path, values, {0: (9, 9, 9), 7: (9, 9, 9), 40: (1, 2, 3)})
    assert read_values(path).tolist() == values.tolist() and read_values(path).dtype == np.uint8
    for mode in ("RGB", "I;16", "RGBA", "1"):
        Image.new(mode, (4, 1)).save(path)
        with pytest.raises(ValueError, match=f"a.png' must hold one 8-bit value.*got mode {mode}"):
            read_values(path)
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (4, 1), (5, 6, 7)).save(path)
        assert read_values(path, colors=True).tolist() == [[[5, 6, 7]] * 4]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot read .*a.png' as a picture"):
        read_values(path, colors=True)
    with pytest.raises(FileNotFoundError):
        read_values(tmp_path / "b.png")


def test_colours_equal_a_search_pixel_by_pixel():
    rng = np.random.default_rng(3)
    colors = rng.permutation(64)[:20].astype(np.uint8)
    colors = np.stack([colors // 16 * 80, colors // 4 % 4 * 80, colors % 4 * 80], axis=1)
    picture = (rng.integers(0, 4, (17, 23, 3)) * 80).astype(np.uint8)
    table = {tuple(color): index for index, color in enumerate(colors.tolist())}
    expected = [[table.get(tuple(pixel), 255) for pixel in row] for row in picture.tolist()]
    assert from_colors(picture, colors).tolist() == expected
    assert (np.array(expected) == 255).any() and len(table) == 20
