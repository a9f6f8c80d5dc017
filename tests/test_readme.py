"""The README's Python snippets run as they stand."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_seven():
    assert len(SNIPPETS) == 7


@pytest.mark.parametrize(
    "snippet",
    SNIPPETS,
    ids=["model", "layer", "dehazing", "conversion", "lambda", "segmenter", "detector"],
)
def test_snippet(snippet):
    names: dict[str, object] = {}
    exec(snippet, names)
    shapes = {k: tuple(v.shape) for k, v in names.items() if hasattr(v, "shape")}
    if "logits" in names:
        assert shapes["logits"] == (2, 10)
        assert (shapes["low"], shapes["high"]) == ((2, 64, 24, 24), (2, 512, 3, 3))
    elif "clear" in names:
        assert shapes["clear"] == (1, 3, 45, 70) and (0 <= names["clear"]).all()
    elif "maps" in names:
        assert shapes["maps"] == (1, 192, 20, 32) and "15x15" in str(names["table"])
    elif "labels" in names:
        assert shapes["labels"] == (1, 75, 100) and set(names["out"]) == {"out", "aux"}
    elif "losses" in names:
        assert set(names["losses"]) == {"classification", "bbox_regression", "bbox_ctrness"}
        assert set(names["found"]) == {"boxes", "labels", "scores"}
    elif "y" in names:
        assert shapes["y"] == shapes["x"] and (names["y"] >= 0).all()
    else:
        assert "IBN" in repr(names["model"]) and "BatchNormAct2d" in repr(names["plain"])
