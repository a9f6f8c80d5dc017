import json

import numpy as np
import pytest
from miniature_segmentation import OWN, image_mask_folder, write_grey, write_image

from ibnvision.data import build_domain, classes, palette, splits

NAME = "image_mask_folder"


@pytest.mark.parametrize("masks", ["grey", "palette", "colors"])
@pytest.mark.parametrize("below", [False, True])
def test_layouts_and_masks(tmp_path, masks, below):
    made = ("train", "val", "test")
    image_mask_folder(tmp_path, made, below=below, masks=masks, palette_json=masks == "colors")
    assert classes(NAME, tmp_path) == tuple(OWN) and splits(NAME, tmp_path) == made
    for split in made:
        data = build_domain(NAME, split, root=tmp_path)
        assert len(data) == 2 and data[0]["image"].shape == (3, 24, 48)
        assert data.picture(1)[1][0, ::12].tolist() == [1, 1, 2, 255]
    assert data.facts()["label_map"] == "own: sand, road, sea"
    assert palette(classes(NAME, tmp_path))[1].tolist() == [128, 64, 128]


def test_flat_folder_is_a_test_set(tmp_path):
    image_mask_folder(tmp_path)
    assert len(build_domain(NAME, "test", root=tmp_path)) == 2 and splits(NAME, tmp_path) == (
        "test",
    )
    with pytest.raises(
        ValueError, match="must hold train/ to give a train split: its images are a"
    ):
        build_domain(NAME, "train", root=tmp_path)


def test_only_some_splits(tmp_path):
    image_mask_folder(tmp_path, ("train", "valid"))
    assert splits(NAME, tmp_path) == ("train", "val")
    assert len(build_domain(NAME, "val", root=tmp_path)) == 2
    with pytest.raises(FileNotFoundError, match=r"\(test\).*looked for test/images with test/mas"):
        build_domain(NAME, "test", root=tmp_path)


def test_classes(tmp_path):
    image_mask_folder(tmp_path)
    path = tmp_path / "classes.txt"
    path.write_text("a\na\n")
    with pytest.raises(ValueError, match="must be 1 to 250 unlike names, got .'a', 'a'"):
        classes(NAME, tmp_path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="1 to 250 unlike names"):
        build_domain(NAME, "test", root=tmp_path)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match="no classes in .*palette.json .*found images/, mas"
    ):
        build_domain(NAME, "test", root=tmp_path)
    for text in ("[1]", "{", '{"a": [1, 2]}', '{"a": [1, 2, 256]}', '{"a": [0, 0, 1.5]}'):
        (tmp_path / "palette.json").write_text(text)
        with pytest.raises(ValueError, match='palette.json\' must hold {"name":'):
            classes(NAME, tmp_path)
    (tmp_path / "palette.json").write_text(json.dumps({"a": [1, 1, 1], "b": [1, 1, 1]}))
    with pytest.raises(ValueError, match="unlike colours"):
        classes(NAME, tmp_path)
    (tmp_path / "palette.json").write_text(json.dumps(OWN))
    path.write_text("sand\nroad\nmoon\n")
    with pytest.raises(
        ValueError, match="must name the classes of classes.txt, sand, road, moon, got"
    ):
        classes(NAME, tmp_path)
    path.write_text("sea\nsand\nroad\n")  # the order of classes.txt counts
    assert classes(NAME, tmp_path) == ("sea", "sand", "road")


def test_unknown_values_are_named(tmp_path):
    image_mask_folder(tmp_path, masks="colors", palette_json=True)
    data = build_domain(NAME, "test", root=tmp_path)
    mask = data.files[0][1]
    write_grey(mask, np.full((24, 48), 3, np.uint8))
    with pytest.raises(
        ValueError, match=r"a0.png' must hold 0 to 2 for the 3 classes, or 255, got.*3"
    ):
        data[0]
    write_image(mask, 0)
    with pytest.raises(
        ValueError, match=r"a0.png' holds the colours \[\[0, 80, 40\]\], which palette"
    ):
        data[0]
    (tmp_path / "palette.json").unlink()
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(
        ValueError, match="must hold one 8-bit value a pixel, plain or with a palette, g"
    ):
        build_domain(NAME, "test", root=tmp_path)[0]
    mask.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 images have no label.*a0.png or a0.bmp"):
        build_domain(NAME, "test", root=tmp_path)
