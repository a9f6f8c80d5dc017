"""From the Markdown of the generated blocks to HTML: the part of the language that they use.

Paragraphs, tables with alignment, lists, pictures, bold, emphasis and code; all else is text.
"""

import html
import re
from collections.abc import Mapping, Sequence

_RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_FEW, _MANY = 3, 11  # columns up to which a table need not be wide, from which on it is dense
_WORDS = 40  # characters from which on a cell is read as text
_EMPHASIS = ((r"\*\*(\S(?:.*?\S)?)\*\*", "strong"), (r"(?<![\w*])\*(\S(?:[^*]*\S)?)\*(?!\w)", "em"))


def to_html(text: str, pictures: Mapping[str, str] | None = None, about: str = "table") -> str:
    """The HTML of a text.

    Args:
        pictures: name of a picture in the text -> HTML that stands in its place; any other
            picture leaves the words that describe it.
        about: what the tables are of, for who cannot see them.
    """
    return "\n".join(_block(part, pictures or {}, about) for part in blocks(text))


def blocks(text: str) -> list[str]:
    """The parts of a text that empty lines separate."""
    return [part.strip("\n") for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


def items(block: str) -> list[str]:
    """The items of a list; nothing where the block is none."""
    lines = block.splitlines()
    return [line[2:] for line in lines] if all(line.startswith("- ") for line in lines) else []


def is_table(block: str) -> bool:
    """Whether the second line is the rule below a table's head."""
    lines = block.splitlines()
    return len(lines) > 1 and "|" in lines[0] and _RULE.fullmatch(lines[1].strip()) is not None


def inline(text: str) -> str:
    """The HTML of text within a block: escaped, with code, bold and emphasis."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a lone backtick is text
        parts[-2:] = ["`".join(parts[-2:])]
    for i, part in enumerate(parts):
        parts[i] = html.escape(part)
        if i % 2:
            parts[i] = f"<code>{parts[i]}</code>"
        else:
            for pattern, tag in _EMPHASIS:
                parts[i] = re.sub(pattern, rf"<{tag}>\1</{tag}>", parts[i])
    return "".join(parts)


def _block(block: str, pictures: Mapping[str, str], about: str) -> str:
    if is_table(block):
        return _table(block.splitlines(), about)
    if found := items(block):
        return "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in found) + "</ul>"
    if picture := _PICTURE.fullmatch(block):
        words, name = picture.groups()
        return pictures.get(name, f"<p>{inline(words)}</p>")
    title = re.fullmatch(r"\*\*([^*]+)\*\*", block)
    return f"<h3>{inline(title[1])}</h3>" if title else f"<p>{inline(block)}</p>"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _table(lines: Sequence[str], about: str) -> str:
    sides = ["right" if rule.endswith(":") else "left" for rule in _cells(lines[1])]

    def row(line: str, tag: str) -> str:
        cells = [
            f'<{tag} class="{"words" if len(cell) > _WORDS else side}">{inline(cell)}</{tag}>'
            for cell, side in zip(_cells(line), sides, strict=True)
        ]
        scope = "col" if tag == "th" else "row"
        first = cells[0].removeprefix(f"<{tag}").removesuffix(f"</{tag}>")
        return f'<tr><th scope="{scope}"{first}</th>{"".join(cells[1:])}</tr>'

    body = "\n".join(row(line, "td") for line in lines[2:])
    shape = "narrow" if len(sides) <= _FEW else "dense" if len(sides) > _MANY else ""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(about)}">'
        f'<table class="{shape}">'
        f"<thead>{row(lines[0], 'th')}</thead>\n<tbody>{body}</tbody></table></div>"
    )
