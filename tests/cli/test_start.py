"""The command line as its own process: what it imports, and when the models are registered."""

import subprocess
import sys

import pytest

COMMAND = "sys.argv[0] = '/bin/ibnvision'; from ibnvision.cli import main; sys.exit(main())"


def process(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def command(at_end, *words):
    """The process of the installed script, which at its end prints what `at_end` gives."""
    script = f"import atexit, sys; atexit.register(lambda: print({at_end})); {COMMAND}"
    done = process("-c", script, *words)
    return done.stdout.split("\n")[-2], done


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["benchmark", "--help"]])
def test_help_needs_no_torch(words):
    last, done = command("'torch' in sys.modules", *words)
    assert (last, done.returncode) == ("False", 0)
    assert done.stdout.startswith("usage: ibnvision")


def test_a_wrong_word_needs_no_torch():
    last, done = command("'torch' in sys.modules", "trian")
    assert (last, done.returncode) == ("False", 2)
    assert done.stderr == "error: unknown command 'trian': did you mean 'train'?\n"


def test_the_module_is_the_script():
    done = process("-X", "importtime", "-m", "ibnvision", "--help")
    assert done.stdout == command("''", "--help")[1].stdout.removesuffix("\n")
    assert "ibnvision.cli.predict" in done.stderr and "torch" not in done.stderr


def test_a_verb_registers_the_models():
    known = "sys.modules['timm'].is_model('resnet50_ibn_a')"
    assert command(known, "list", "configs")[0] == "True"


def test_importing_the_package_registers_the_models():
    script = "import ibnvision, timm; print(timm.is_model('resnet50_ibn_a'))"
    done = process("-c", f"{script}; print(ibnvision.create_model is timm.create_model)")
    assert done.stdout == "True\nTrue\n"
