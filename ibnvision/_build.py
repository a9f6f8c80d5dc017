"""What setup.py wrote about a build that left something out."""

from pathlib import Path


def build_note() -> str:
    """Why kernels were not built, as `the CUDA kernels were not built: ...`; "" if all were."""
    file = Path(__file__).with_name("_build.txt")
    return file.read_text() if file.is_file() else ""
