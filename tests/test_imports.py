"""The floor plan: a room imports only from the rooms and packages of its row."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ibnvision"

# room: (rooms below it, packages besides the standard library)
FLOORS = {
    "_version": ("", ""),
    "_build": ("", ""),
    "ops": ("_build", "torch"),
    "layers": ("ops", "torch timm"),
    "models": ("layers", "torch torchvision timm segmentation_models_pytorch numpy"),
    "__init__": ("models layers ops _version", "timm"),
    "methods": ("layers ops", "torch torchvision"),
    "metrics": ("", "torch numpy torchmetrics faster_coco_eval"),
    "config": ("", "torch numpy"),
    "testing": ("", "torch numpy"),
    "data": ("", "torch torchvision numpy cv2 PIL scipy yaml"),
    "tasks": ("models methods metrics data", "torch torchvision timm"),
    "engine": (
        "tasks methods metrics data config layers ops __init__",
        "torch torchvision numpy accelerate rich matplotlib",
    ),
    "benchmark": (
        "engine tasks models methods layers ops testing metrics data config __init__",
        "torch numpy matplotlib rich timm accelerate PIL",
    ),
    "cli": ("benchmark engine metrics config data models ops __init__", "rich timm"),
    "run": ("__init__", ""),
    "__main__": ("cli", ""),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """("room", name) and ("package", name) of every import statement, those in functions too."""
    depth = len(file.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= max(depth, 1), f"line {node.lineno} is relative across rooms"
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            if node.level:
                names = [f"ibnvision.{module}" for module in modules] if depth == 0 else []
            elif node.module == "ibnvision":
                names = [f"ibnvision.{alias.name}" for alias in node.names]
            else:
                names = modules
        for name in names:
            first, _, rest = name.partition(".")
            if first == "ibnvision":
                room = rest.partition(".")[0]
                yield "room", room if room in FLOORS else "__init__"
            elif first not in sys.stdlib_module_names:
                yield "package", first


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_file_imports_only_what_its_room_may(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOORS, f"{room} has no row in FLOORS; CONTRIBUTING.md names the rooms"
    rooms, packages = (set(entry.split()) for entry in FLOORS[room])
    found = set(imported(file))
    strange = {name for kind, name in found if kind == "room"} - rooms
    assert not strange, f"{room} imports the rooms {sorted(strange)}, may import {sorted(rooms)}"
    strange = {name for kind, name in found if kind == "package"} - packages
    assert not strange, f"{room} imports {sorted(strange)}, may import {sorted(packages)}"


def test_rows_point_down():
    """No cycle: every row names only rooms that stand above it in the table."""
    seen: set[str] = set()
    for room, (rooms, _) in FLOORS.items():
        assert set(rooms.split()) <= seen, f"{room} points up or sideways"
        seen.add(room)
