"""Runs a Python script, such as timm's train.py, with this package's models registered in timm.

python -m ibnvision.run train.py --model resnet50_ibn_a DATA
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the script sys.argv[1] as __main__ with the arguments after it.

    The models are registered by then: importing this module has imported the package.

    Raises:
        SystemExit: no script was named, or it is not there.
    """
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m ibnvision.run SCRIPT [ARGUMENT ...]")
    script = Path(sys.argv[1])
    if not script.is_file():
        raise SystemExit(f"SCRIPT must be a Python file, found none at {str(script)!r}")
    sys.argv = sys.argv[1:]
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
