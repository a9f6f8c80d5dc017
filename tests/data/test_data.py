import subprocess
import sys

import numpy as np
import pytest

from ibnvision.data import (
    CITYSCAPES,
    CLASSES,
    DOMAINS,
    PRESETS,
    build_domain,
    classes,
    color_mask,
    domain_of,
    key_of,
    palette,
    root_of,
    splits,
)
from ibnvision.data.streets import DOMAIN_SHIFTS, STRESS_DOMAINS


def test_table_of_domains():
    drawn = [name for name in DOMAINS if name.startswith("streets_")]
    assert drawn == [*DOMAIN_SHIFTS, *(f"{name}_boxes" for name in DOMAIN_SHIFTS)]
    stress = [*STRESS_DOMAINS, "haze_none", *(f"{name}_boxes" for name in STRESS_DOMAINS)]
    assert [name for name, d in DOMAINS.items() if d.stress] == stress
    segmentation = {name: d for name, d in DOMAINS.items() if d.task == "segmentation"}
    eight = {n for n in segmentation if n.startswith(("streets_", "camvid_"))}
    for name, row in DOMAINS.items():
        if name in eight:
            assert classes(name) == CLASSES
        elif name in segmentation:
            assert row.data_key and splits_known(name)
            assert row.splits == ("test",) if name == "gtav_val" else row.splits[0] == "train"
            assert "classes" in row.from_disk or classes(name) == CITYSCAPES
        elif row.task == "detection":
            assert "classes" in row.from_disk or len(set(classes(name))) == len(classes(name)) > 0
            assert row.data_key or name in drawn
        else:
            assert classes(name) == () and row.task == "dehazing"
    assert [(p.height, p.width, p.train, p.test) for p in PRESETS.values()] == [
        (32, 48, 64, 16),
        (64, 96, 320, 100),
        (128, 256, 2000, 500),
    ]


def splits_known(name):
    return "splits" in DOMAINS[name].from_disk or splits(name) == DOMAINS[name].splits


def test_domains_of_detection():
    cityscapes = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert classes("cityscapes_boxes") == classes("cityscapes_foggy_all_boxes") == cityscapes
    assert classes("sim10k") == classes("cityscapes_car_boxes") == ("car",)
    assert classes("bdd100k_boxes") == (
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        *("traffic light", "traffic sign"),
    )
    dwd = ("bus", "bike", "car", "motor", "person", "rider", "truck")
    found = {n: splits(n) for n in DOMAINS if n.startswith("dwd_") and classes(n) == dwd}
    assert found == {
        "dwd_daytime_clear": ("train", "test"),
        **{f"dwd_{n}": ("test",) for n in ("night_clear", "dusk_rainy", "night_rainy")},
        "dwd_daytime_foggy": ("test",),
    }
    assert splits("sim10k") == ("train",) and splits("rtts_boxes") == ("test",)
    assert classes("rtts_boxes") == ("person", "bicycle", "car", "bus", "motorbike")
    for own in ("coco_json", "voc_xml", "yolo_txt"):
        for name in (own, f"{own}:target"):
            assert key_of(name) == name and domain_of(name).task == "detection"
            with pytest.raises(
                ValueError, match=f"{name} is read from a folder.*--data {name}=DIR"
            ):
                splits(name)


@pytest.mark.parametrize("name", DOMAIN_SHIFTS)
def test_build_domain(name):
    data = build_domain(name, "train", preset="tiny")
    assert len(data) == 64 and data[0]["domain"] == name
    assert build_domain(name, "test", preset="tiny", limit=3).count == 3


def test_root_of_a_domain_is_under_its_name_or_its_key():
    roots = {"camvid": "/c", "sots": "/s", "sots_indoor": "/i", "nh_haze": "/n"}
    names = ("camvid_dusk", "sots_indoor", "sots_outdoor", "nh_haze_last5", "its", "streets_fog")
    assert [root_of(name, roots) for name in names] == ["/c", "/i", "/s", "/n", None, None]
    with pytest.raises(KeyError, match="unknown domain 'sots'"):
        root_of("sots", roots)


def test_color_mask():
    label = np.array([[0, 7, 255]], np.uint8)
    expected = [[128, 64, 128], [153, 153, 153], [0, 0, 0]]
    np.testing.assert_array_equal(color_mask(label)[0], expected)
    bicycle = color_mask(np.array([[18]], np.uint8), CITYSCAPES)[0, 0]
    assert bicycle.tolist() == [119, 11, 32]


def test_palette():
    streets = [[128, 64, 128], [244, 35, 232], [70, 70, 70], [107, 142, 35], [70, 130, 180]]
    streets += [[0, 0, 142], [220, 20, 60], [153, 153, 153]]
    colors = palette(CLASSES)
    assert colors.tolist() == streets and colors.dtype == np.uint8
    assert palette(()).shape == (0, 3)
    assert len(np.unique(palette([f"thing {i}" for i in range(1000)]), axis=0)) == 1000
    many = [f"kind {i}" for i in range(200)]
    mixed = palette([*many, *CITYSCAPES])
    assert len(np.unique(mixed, axis=0)) == 219 and mixed.any(axis=1).all()
    np.testing.assert_array_equal(mixed[200:], palette(CITYSCAPES))
    np.testing.assert_array_equal(mixed[:50], palette(many[:50]))
    assert abs(np.diff(palette(many[:19]).astype(int), axis=0)).max(axis=1).min() > 60


def test_bad_input():
    with pytest.raises(KeyError, match="unknown domain 'streets_nigth'; did you mean 'streets_ni"):
        build_domain("streets_nigth", "test")
    with pytest.raises(KeyError, match="unknown domain 'camvid'; did you mean 'camvid_d"):
        classes("camvid")
    with pytest.raises(ValueError, match=r"camvid_dusk is read from a folder.*--data camvid=DIR"):
        build_domain("camvid_dusk", "test")
    with pytest.raises(ValueError, match=r"image_mask_folder is read from a folder.*DIR\), got No"):
        classes("image_mask_folder")
    with pytest.raises(ValueError, match=r"synthia is read from a folder: give root=DIR"):
        splits("synthia")
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        build_domain("streets_day", "dev")
    with pytest.raises(ValueError, match="preset must be one of tiny, quick, full, got 'big'"):
        build_domain("streets_day", "test", preset="big")
    with pytest.raises(ValueError, match=r"size must be \(height, width\).*got \(8, 96\)"):
        build_domain("streets_day", "test", size=(8, 96))
    with pytest.raises(KeyError, match="unknown protocol 'halve'; did you mean 'half'"):
        build_domain("streets_day", "test", protocol="halve")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        build_domain("streets_day", "test", limit=0)


def test_opencv_is_imported_late_and_its_absence_explained():
    code = (
        "import sys; sys.modules['cv2'] = None\n"  # any import of cv2 now fails
        "import ibnvision, ibnvision.data, ibnvision.data.fourier, ibnvision.data.photometric\n"
        "assert 'segmentation_models_pytorch' not in sys.modules\n"  # seconds
        "print('imported')\n"
        "ibnvision.data.build_domain('streets_day', 'test')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr
    assert done.returncode == 1
    assert "Install opencv-python" in done.stderr and "opencv-python-headless" in done.stderr
