import numpy as np
import pytest
from miniature_segmentation import train_ids, urbansyn, write_grey

from ibnvision.data import build_domain


@pytest.mark.parametrize("above", ["", "UrbanSyn"])
def test_all_images_are_train(tmp_path, above):
    urbansyn(tmp_path / above)
    data = build_domain("urbansyn", "train", root=tmp_path)
    assert [label.name for _, label in data.files] == ["ss_0001.png", "ss_0002.png"]
    np.testing.assert_array_equal(data.picture(1)[1], train_ids(2))
    with pytest.raises(
        ValueError, match="must be one of train, got 'val' .there is no official spl"
    ):
        build_domain("urbansyn", "val", root=tmp_path)
    write_grey(data.files[0][1], np.full((24, 48), 33, np.uint8))
    with pytest.raises(ValueError, match="ss_0001.png' holds the values 33, .* 'urbansyn_ids'"):
        data[0]
    with pytest.raises(FileNotFoundError, match="no UrbanSyn in .*looked for {rgb} with {ss} b"):
        build_domain("urbansyn", "train", root=tmp_path / "rgb")
