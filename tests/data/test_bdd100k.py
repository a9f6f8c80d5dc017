import numpy as np
import pytest
from miniature_segmentation import BDD_LAYOUTS, bdd100k, raw_ids, train_ids, write_grey

from ibnvision.data import build_domain


@pytest.mark.parametrize("layout", BDD_LAYOUTS)
@pytest.mark.parametrize("above", ["", "bdd100k", "bdd100k/seg"])
def test_layouts(tmp_path, layout, above):
    bdd100k(tmp_path / above, layout)
    for split in ("train", "val", "test"):
        data = build_domain("bdd100k", split, root=tmp_path)
        assert len(data) == 2 and data.files[0][0].parent.name == split.replace("test", "val")
        np.testing.assert_array_equal(data.picture(1)[1], train_ids(1))
    assert data.facts()["split"] == "val, official folders (the test labels are not public)"


def test_half_protocol_leaves_its_size(tmp_path):
    data = build_domain("bdd100k", "val", root=bdd100k(tmp_path), protocol="half")
    assert data[0]["image"].shape == (3, 24, 48) and data[0]["target"].shape == (24, 48)
    assert data.facts()["input"] == "native size (1280x720)"


def test_wrong_folders_and_labels(tmp_path):
    bdd100k(tmp_path, "rein", splits=("train",))
    with pytest.raises(
        FileNotFoundError, match=r"no BDD100K 10k \(val\).*{images/10k/val,images/val} with {label"
    ):
        build_domain("bdd100k", "test", root=tmp_path)
    data = build_domain("bdd100k", "train", root=tmp_path)
    write_grey(data.files[0][1], raw_ids(0))  # ids in place of trainIds
    with pytest.raises(ValueError, match="values 19, which the map 'train_ids' does not"):
        data[0]
    data.files[1][1].unlink()
    with pytest.raises(FileNotFoundError, match="68c1.png or b1c66a42-6f7d68c1_train_id.png in"):
        build_domain("bdd100k", "train", root=tmp_path)
