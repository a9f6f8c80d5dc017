import numpy as np
import pytest
import torch
from miniature_segmentation import cityscapes

from ibnvision.data import build_domain
from ibnvision.data.class_index import class_index, draw_centre, load_index, save_index


class Labels:
    """A set of labels without images."""

    def __init__(self, *labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def label(self, index):
        return self.labels[index]


@pytest.fixture(scope="module")
def labels():
    rng = np.random.default_rng(0)
    values = np.array([0, 1, 2, 4, 255], np.uint8)  # class 3 never occurs
    shapes = ((20, 33), (16, 16), (7, 40))
    return Labels(
        *(values[rng.integers(0, 5, shape)] for shape in shapes), np.full((4, 4), 255, np.uint8)
    )


def brute_force(labels, classes, tile):
    found = {c: [] for c in range(classes)}
    for number, label in enumerate(labels.labels):
        for top in range(0, label.shape[0], tile):
            for left in range(0, label.shape[1], tile):
                part = label[top : top + tile, left : left + tile]
                for c in range(classes):
                    y, x = np.nonzero(part == c)
                    if len(y):
                        found[c].append((number, top + int(y.mean()), left + int(x.mean())))
    return found


@pytest.mark.parametrize("tile", [1, 8, 16, 1024])
def test_equals_brute_force(labels, tile):
    index, expected = class_index(labels, 5, tile), brute_force(labels, 5, tile)
    for c in range(5):
        part = slice(index["start"][c], index["start"][c + 1])
        rows = zip(*(index[key][part].tolist() for key in ("image", "y", "x")), strict=True)
        assert list(rows) == expected[c]
    assert index["start"].dtype == np.int64 and index["y"].dtype == np.int32
    assert index["start"][-1] == len(index["image"]) == sum(map(len, expected.values()))


def test_reads_real_sets_and_drawn_ones_once(tmp_path):
    seen = []

    def watch(indices):
        seen.extend(indices)
        return indices

    data = build_domain("cityscapes", "train", root=cityscapes(tmp_path))
    for image, _ in data.files:
        image.unlink()  # only labels are read
    index = class_index(data, 19, 1024, watch)
    assert seen == [0, 1, 2, 3]
    row = [index[key][index["start"][0]] for key in ("image", "y", "x")]
    assert row == [0, 11, 2]  # road is columns 0 to 5 of 24 rows
    drawn = class_index(build_domain("streets_day", "train", preset="tiny", limit=2), 8, 16)
    assert drawn["start"][1] > 0


def test_draw_is_uniform_over_classes_that_occur_then_over_places():
    label = np.zeros((8, 64), np.uint8)
    label[:, 40:44] = 2
    index = class_index(Labels(label, np.full((8, 8), 255, np.uint8)), 4, tile=8)
    counts, places = {0: 0, 2: 0}, set()
    generator = torch.Generator().manual_seed(5)
    for _ in range(600):
        image, (y, x) = draw_centre(index, generator)
        assert image == 0 and y == 3
        counts[2 if x == 41 else 0] += 1
        places.add(x)
    assert counts[2] == pytest.approx(300, abs=50)  # in 1 of 9 places
    assert places == {3, 11, 19, 27, 35, 41, 45, 51, 59}
    again = torch.Generator().manual_seed(5)
    assert draw_centre(index, again) == draw_centre(index, torch.Generator().manual_seed(5))
    with pytest.raises(ValueError, match="place of at least one class, got none"):
        draw_centre(class_index(Labels(np.full((4, 4), 255, np.uint8)), 3), generator)


def test_file_round_trip(labels, tmp_path):
    index, path = class_index(labels, 5, 8), tmp_path / "deep" / "index.npz"
    assert load_index(path, "a") is None
    save_index(path, index, "a")
    loaded = load_index(path, "a")
    assert loaded.keys() == index.keys()
    for key, values in index.items():
        np.testing.assert_array_equal(loaded[key], values)
        assert loaded[key].dtype == values.dtype
    assert load_index(path, "b") is None
    save_index(path, index, "b")
    assert load_index(path, "b") is not None
    assert [file.name for file in path.parent.iterdir()] == ["index.npz"]
    for content in (b"half", path.read_bytes()[:200], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="index.npz' must be an index of classes.*delete it"):
            load_index(path, "b")


def test_failed_write_leaves_the_old_file(labels, tmp_path):
    index, path = class_index(labels, 5, 8), tmp_path / "index.npz"
    save_index(path, index, "a")
    with pytest.raises(KeyError):
        save_index(path, {"image": index["image"]}, "b")
    assert load_index(path, "a") is not None and len(list(tmp_path.iterdir())) == 1


def test_bad_arguments(labels):
    with pytest.raises(ValueError, match="at least 1, got 0 and 8"):
        class_index(labels, 0, 8)
