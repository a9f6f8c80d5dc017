"""A run on the toy set, for the tests of training, resuming, evaluating and failing."""

import pytest
from colour_toy import add_toys, toy_config


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    add_toys(monkeypatch)
    return toy_config(tmp_path / "runs")


@pytest.fixture
def quick_pictures(monkeypatch):
    """Figures as empty files: drawing them is most of the time of a small run."""

    def touch(*args):
        args[-1].touch()

    monkeypatch.setattr("ibnvision.engine.pictures.save_confusion", touch)
    monkeypatch.setattr("ibnvision.engine.pictures.save_curves", touch)
