import cv2
import numpy as np
import pytest
from miniature_segmentation import synthia, train_ids, write_grey

from ibnvision.data import build_domain, splits


@pytest.mark.parametrize("above", ["", "RAND_CITYSCAPES", "SYNTHIA/RAND_CITYSCAPES"])
@pytest.mark.parametrize("train_id_files", [False, True])
def test_flat_download_is_all_train(tmp_path, above, train_id_files):
    synthia(tmp_path / above, train_id_files=train_id_files)
    data = build_domain("synthia", "train", root=tmp_path)
    assert len(data) == 3 and splits("synthia", tmp_path) == ("train",)
    assert data.facts()["split"] == "all images (there is no official split)"
    for number in range(3):
        np.testing.assert_array_equal(data.picture(number)[1], train_ids(number))
    with pytest.raises(ValueError, match="has no val split: as published it is one folder"):
        build_domain("synthia", "val", root=tmp_path)


def test_folders_of_robustnet(tmp_path):
    synthia(tmp_path, folders=True)
    assert splits("synthia", tmp_path) == ("train", "val", "test")
    sizes = [len(build_domain("synthia", s, root=tmp_path)) for s in ("train", "val", "test")]
    assert sizes == [2, 1, 1]
    facts = build_domain("synthia", "test", root=tmp_path).facts()
    assert facts["split"] == "val, folders of RobustNet's split (there is no test)"
    (tmp_path / "RGB" / "val").rename(tmp_path / "RGB" / "other")
    with pytest.raises(FileNotFoundError, match=r"CITYSCAPES \(val\).*looked for {rgb/val}"):
        build_domain("synthia", "val", root=tmp_path)


def test_labels_need_sixteen_bits(tmp_path):
    synthia(tmp_path)
    data = build_domain("synthia", "train", root=tmp_path)
    label = data.files[0][1]
    assert cv2.imread(str(label), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    write_grey(label, train_ids(0))
    with pytest.raises(
        ValueError, match=r"0000000.png' must be a 16-bit RGB PNG.*got uint8 of shape"
    ):
        data[0]
    for value in (23, 300):  # 300 must not wrap to 44
        cv2.imwrite(str(label), np.full((24, 48, 3), value, np.uint16))
        with pytest.raises(
            ValueError, match=f"holds the values {value}, which the map 'synthia_ids'"
        ):
            data[0]
