import os
import subprocess
import sys
from pathlib import Path

import pytest

import ibnvision
from ibnvision import run

SCRIPT = """
import sys
import timm
import beside
print(__name__, sys.argv[1:], timm.is_model("resnet50_ibn_a"), beside.VALUE)
"""


def test_script_sees_our_models_its_arguments_and_its_folder(tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("VALUE = 7")
    command = [sys.executable, "-m", "ibnvision.run", "scripts/train.py", "--model", "resnet50"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ibnvision.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == "__main__ ['--model', 'resnet50'] True 7", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "usage: python -m ibnvision.run"), (["absent.py"], "found none at 'absent.py'")],
)
def test_no_script(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    with pytest.raises(SystemExit, match=message):
        run.main()
