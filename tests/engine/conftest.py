"""A run on the toy set, for the tests of training, resuming, evaluating and failing."""

import pytest
from colour_toy import add_toys, toy_config


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    add_toys(monkeypatch)
    return toy_config(tmp_path / "runs")
