import numpy as np
import pytest
from miniature_segmentation import (
    MAPILLARY_NAMES,
    mapillary,
    train_ids,
    write_image,
    write_palette,
)

from ibnvision.data import CITYSCAPES, build_domain
from ibnvision.data.label_maps import LABEL_MAPS
from ibnvision.data.mapillary import NAMES

BOTH = ("mapillary_robustnet", "mapillary_rein")


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("version_folder", [False, True])
@pytest.mark.parametrize("above", ["", "mapillary-vistas-dataset_public_v1.2"])
def test_layouts(tmp_path, name, version_folder, above):
    (tmp_path / above).mkdir(exist_ok=True)
    mapillary(tmp_path / above, version_folder=version_folder)
    for split, folder in (("train", "training"), ("val", "validation"), ("test", "validation")):
        data = build_domain(name, split, root=tmp_path)
        assert [image.parents[1].name for image, _ in data.files] == [folder] * 2
        np.testing.assert_array_equal(data.picture(1)[1], train_ids(1))
    assert data.facts()["label_map"] == name


def test_the_two_maps_differ_in_eleven_ids():
    one, other = (LABEL_MAPS[name].table for name in BOTH)
    differ = np.flatnonzero(one != other).tolist()
    assert differ == [7, 8, 9, 10, 11, 14, 23, 41, 44, 46, 49]
    found = {
        MAPILLARY_NAMES[i].rsplit("--", 1)[-1]: CITYSCAPES[other[i]] for i in differ if i != 41
    }
    assert found == {
        "bike-lane": "road", "crosswalk-plain": "road", "parking": "road", "service-lane": "road",
        "crosswalk-zebra": "road", "curb-cut": "sidewalk", "pedestrian-area": "sidewalk",
        "street-light": "pole", "traffic-sign-frame": "traffic sign", "back": "traffic sign",
    }  # fmt: skip
    assert (one[differ] == np.where(np.array(differ) == 41, 0, 255)).all() and other[41] == 255
    shared = {MAPILLARY_NAMES[i]: int(v) for i, v in enumerate(one) if i != 41 and 0 <= v < 255}
    assert shared["marking--general"] == 0 and shared["construction--barrier--curb"] == 1
    assert len(shared) == 24 and set(shared.values()) == set(range(19))
    assert {i: MAPILLARY_NAMES[i] for i in NAMES} == NAMES
    scored = np.flatnonzero(((one >= 0) & (one < 255)) | ((other >= 0) & (other < 255)))
    assert scored.tolist() == sorted(NAMES)


def test_another_version_is_refused(tmp_path):
    names = list(MAPILLARY_NAMES)
    names.insert(4, "construction--barrier--concrete-block")  # as v2.0 does
    mapillary(tmp_path, names=names)
    message = (
        "where 6 is construction--barrier--wall, got construction--barrier--other-barrier and 67"
    )
    with pytest.raises(ValueError, match=message):
        build_domain("mapillary_rein", "val", root=tmp_path)
    mapillary(tmp_path, names=names[:3])
    with pytest.raises(ValueError, match="where 3 is .*fence, got nothing and 3 labels"):
        build_domain("mapillary_rein", "val", root=tmp_path)
    for text in ("{", "[]", '{"labels": [3]}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json' must hold `labels`, a list of objects"):
            build_domain("mapillary_rein", "val", root=tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="must have config_v1.2.json or config.json in"):
        build_domain("mapillary_rein", "val", root=tmp_path)


def test_protocols(tmp_path):
    """Native: height 1536 and the centre square; half: halved, then inside 1024x512."""
    mapillary(tmp_path)
    folder = tmp_path / "validation"
    sizes = {"pic0_aZ-": (150, 400), "pic1_aZ-": (400, 150)}
    for name, (height, width) in sizes.items():
        write_image(folder / "images" / f"{name}.jpg", 4, (height, width))
        values = np.full((height, width), 13, np.uint8)  # road
        values[:, : width // 2] = 27  # sky on the left
        write_palette(folder / "labels" / f"{name}.png", values, {})
    wide, tall = (build_domain(BOTH[0], "val", root=tmp_path)[i] for i in (0, 1))
    assert wide["image"].shape == tall["image"].shape == (3, 1536, 1536)
    assert wide["target"].shape == (1536, 1536)
    assert (wide["target"][:, :768] == 10).all() and (wide["target"][:, 768:] == 0).all()
    target = tall["target"][0].tolist()
    assert target == [255] * 480 + [10] * 288 + [0] * 288 + [255] * 480  # never road outside
    assert (tall["image"][:, :, :480] == 0).all() and (tall["image"][1, :, 480:1056] > 0.2).all()

    data = build_domain(BOTH[0], "val", root=tmp_path, protocol="half")
    wide, tall = data[0], data[1]
    assert wide["image"].shape == (3, 384, 1024) and wide["target"].shape == (75, 200)
    assert tall["image"].shape == (3, 1024, 384) and tall["target"].shape == (200, 75)
    assert "RobustNet counts" in build_domain(BOTH[0], "val", root=tmp_path).facts()["notes"][0]
    assert data.facts()["input"] == "image and label halved, then the image inside 1024x512"
