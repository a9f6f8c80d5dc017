"""The page of `ibnvision benchmark generalization --task all`: its table, then every study."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import markdown, page

SHOWN = ("scores.png", "panels_haze.png", "resolution.png")  # of what a study drew


def page_of(table: str, folders: Mapping[str, Path], words: Sequence[str]) -> str:
    """The self-contained page.

    Args:
        table: Markdown of the one table.
        folders: task -> where its study left table.md and pictures.
        words: the sentences of the banner.
    """
    parts = [
        f'<section id="tasks"><h2>All tasks</h2>{markdown.to_html(table, about="all")}</section>'
    ]
    parts += [_study(task, folder) for task, folder in folders.items()]
    head = "".join(f"<p>{html.escape(text)}</p>" for text in words)
    foot = "Made by ibnvision benchmark generalization --task all."
    return page.document("ibnvision: all tasks", "generalization, all tasks", head, parts, foot)


def _study(task: str, folder: Path) -> str:
    """A study's pictures and its own words; nothing where it came to nothing."""
    text = folder / "table.md"
    if not text.is_file():
        return ""
    places = [place / name for name in SHOWN for place in (folder, folder / "pictures")]
    found = [path for path in places if path.is_file()]
    drawn = "".join(
        page.figure(page.picture(path.read_bytes(), f"{task}: {path.stem}"), "", "broad")
        for path in found
    )
    words = markdown.to_html(text.read_text(encoding="utf-8"), about=task)
    return f'<section id="{task}"><h2>{task.capitalize()}</h2>{drawn}{words}</section>'
