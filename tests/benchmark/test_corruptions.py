import sys

import numpy as np
import pytest
import scipy.ndimage  # noqa: F401  (it brings its own `interpolation`, which must stay)

from ibnvision.benchmark import corruptions, official_imagecorruptions, record

# what imagecorruptions asks of names that today's packages lack; its own file is not shipped
STAND_IN = """
import numpy as np
from PIL import Image
from pkg_resources import resource_filename
from scipy.ndimage.interpolation import map_coordinates

def gaussian(picture, sigma, channel_axis):
    assert channel_axis == -1
    return picture

def contrast(x, severity):
    gaussian(np.array(x), 1, multichannel=True)
    assert np.float_ is np.float64
    assert resource_filename(__name__, "./a.png").endswith("a.png")
    return np.array(x) * 0.5 + severity + 0.9
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    folder = tmp_path / "imagecorruptions"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (folder / "corruptions.py").write_text(STAND_IN)
    info = tmp_path / "imagecorruptions-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagecorruptions\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_published_file_is_loaded_between_stand_ins(peer):
    names = ("pkg_resources", "scipy.ndimage.interpolation")
    before = [sys.modules.get(name) for name in names]
    corrupt, version = official_imagecorruptions.load()
    assert version == "9.9" and [sys.modules.get(name) for name in names] == before
    picture = np.full((40, 40, 3), 100, np.uint8)
    found = corrupt(picture, "contrast", 3)
    assert found.dtype == np.uint8 and (found == 53).all()  # cut, not rounded


def test_quick_runs_and_becomes_a_table(peer, tmp_path, capsys):
    path = tmp_path / "corruptions.jsonl"
    argv = ["--quick", "--corruption", "contrast", "--out", str(path)]
    assert corruptions.main(argv) == 0
    records = record.read(path)
    times = {r["backend"]: r["value"] for r in records if r["metric"] == "time"}
    assert list(times) == ["ibnvision", "imagecorruptions", "imagecorruptions, converted"]
    ratios = {r["metric"]: r for r in records if r["metric"] != "time"}
    assert list(ratios) == ["ratio", "converted_ratio"] and ratios["ratio"]["unit"] == "times"
    assert ratios["ratio"]["low"] <= ratios["ratio"]["value"] <= ratios["ratio"]["high"]
    assert {r["peer"] for r in records} == {"imagecorruptions 9.9"}
    text = capsys.readouterr().out
    assert "48x64, severity 3" in text and f"{ratios['ratio']['value']:.3g}" in text


def test_a_missing_peer_is_skipped_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(official_imagecorruptions, "PACKAGE", "imagecorruptions_that_is_missing")
    path = tmp_path / "corruptions.jsonl"
    argv = ["--quick", "--corruption", "snow", "--corruption", "fog", "--out", str(path)]
    assert corruptions.main(argv) == 0
    records = record.read(path)
    assert [(r["corruption"], r["backend"]) for r in records] == [
        ("snow", "ibnvision"),
        ("fog", "ibnvision"),
    ]
    assert "imagecorruptions skipped: " in capsys.readouterr().out


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'snow'"):
        corruptions.main(["--corruption", "snows", "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit):
        corruptions.main(["--severity", "6"])
