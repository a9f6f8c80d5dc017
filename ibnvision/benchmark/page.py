"""What the HTML pages share: style, skeleton, pictures.

A page needs no other file, nothing from the network and no script.
"""

import base64
import html
from collections.abc import Iterable, Sequence

from ibnvision import data

ROLES = {  # of a domain, for people
    "source": "source",
    "target": "unseen",
    "stress": "stress test",
    "real": "photographed, unseen",
}
STYLE = """
:root { --ink: #20242c; --soft: #667085; --line: #e4e7ec; --blue: #2f55d4; --wash: #f6f7fb;
  --bad: #b42318; --good: #12664f; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 0 24px 64px; }
header { padding: 56px 24px 48px; color: #fff;
  background: linear-gradient(120deg, #16204a, #2f55d4 70%, #2a9d8f); }
header div { max-width: 1192px; margin: 0 auto; }
header p { font-size: 25px; line-height: 1.35; margin: 8px 0 0; max-width: 940px;
  font-weight: 600; }
header small { opacity: .8; letter-spacing: .08em; text-transform: uppercase; font-size: 12px; }
h2 { font-size: 21px; margin: 48px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 4px; }
h4 { font-size: 14px; margin: 18px 0 4px; }
h3 span, h4 span { color: var(--soft); font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr));
  gap: 16px; margin: -28px 0 8px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 20px; box-shadow: 0 6px 18px rgba(22, 32, 74, .08); }
.card b { display: block; font-size: 30px; line-height: 1.15; }
.card span { color: var(--soft); font-size: 13px; line-height: 1.4; display: block; }
.wide { overflow-x: auto; max-width: 100%; margin: 10px 0 18px; }
.wide:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 8px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, table.plain td, th.left, td.left { text-align: left; }
th[scope="row"] { color: var(--ink); white-space: nowrap;
  position: sticky; left: 0; background: #fff; vertical-align: top; }
td { vertical-align: top; }
td.words { text-align: left; white-space: normal; min-width: 280px; overflow-wrap: anywhere; }
td strong { color: var(--bad); }
table.plain td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.plain td:first-child { width: 130px; color: var(--soft); overflow-wrap: normal; }
table.narrow { width: auto; min-width: 460px; }
table.dense { font-size: 11.5px; }
table.dense td, table.dense th { padding: 7px 3px; }
td small { color: var(--soft); }
td.best { font-weight: 700; color: var(--blue); background: #eef2ff; }
td.failed { color: var(--bad); white-space: normal; overflow-wrap: anywhere; }
img, svg { width: 100%; height: auto; display: block; }
figure { margin: 0 0 8px; }
.note { color: var(--soft); font-size: 14px; max-width: 900px; }
.legend span { display: inline-block; margin: 0 14px 6px 0; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; }
p { max-width: 900px; }
code { background: var(--wash); padding: 1px 5px; border-radius: 4px; font-size: 12.5px;
  overflow-wrap: anywhere; }
footer { border-top: 1px solid var(--line); margin-top: 56px; padding-top: 16px;
  color: var(--soft); font-size: 13px; }
nav ol { columns: 2 340px; column-gap: 32px; font-size: 15px; margin: 0; padding-left: 26px; }
nav li { break-inside: avoid; }
nav span { color: var(--soft); font-size: 13px; }
a { color: var(--blue); }
.back { position: fixed; right: 14px; bottom: 14px; z-index: 2; padding: 4px 12px;
  border: 1px solid var(--line); border-radius: 16px; background: #fff; font-size: 13px; }
summary { cursor: pointer; font-weight: 600; font-size: 15px; margin: 22px 0 4px; }
ul { max-width: 940px; padding-left: 22px; }
li { margin: 4px 0; overflow-wrap: anywhere; }
ul.compact { columns: 2 430px; column-gap: 32px; max-width: none; font-size: 14px; }
ul.compact li { margin: 1px 0; break-inside: avoid; }
figcaption { color: var(--soft); font-size: 14px; max-width: 900px; margin: 4px 0 12px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 8px 24px; align-items: start; }
.broad svg, .broad img { min-width: 760px; }
.samples { display: grid; gap: 6px 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }
.samples .broad { grid-column: 1 / -1; }
.samples figcaption { font-size: 13px; line-height: 1.4; max-width: none; margin: 3px 0 6px; }
.small svg { max-width: 640px; }
.asked { font-size: 18px; font-weight: 600; margin: 0 0 8px; }
.verdict { border-left: 5px solid var(--line); padding: 1px 0 1px 20px; margin: 28px 0; }
.verdict.lost { border-color: var(--bad); }
.verdict.won { border-color: var(--good); }
.verdict h2 { margin-top: 8px; }
.verdict th[scope="row"] { white-space: normal; font-weight: 500; }
h2 { border-top: 1px solid var(--line); padding-top: 20px; line-height: 1.3; }
.verdict h2 { border: 0; padding: 0; }
@media (max-width: 640px) {
  main { padding: 0 14px 40px; }
  header { padding: 32px 14px 44px; }
  header p { font-size: 19px; }
  table { font-size: 12.5px; }
  th, td { padding: 6px; }
  table.narrow { min-width: 0; }
  th[scope="row"] { max-width: 42vw; min-width: 128px; white-space: normal;
    overflow-wrap: anywhere; }
  .verdict { padding-left: 12px; }
  .verdict td { white-space: normal; }
  .verdict td, .verdict th { font-size: 12px; padding: 5px 3px; }
  .verdict th[scope="row"] { position: static; max-width: none; }
  .cards { gap: 10px; grid-template-columns: 1fr 1fr; }
  .card { padding: 12px 14px; }
  nav span { display: none; }
  .samples { grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: 88%;
    overflow-x: auto; }
  .samples .broad { grid-column: auto; }
  .samples:has(.broad) { display: block; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { font-size: 10pt; line-height: 1.4; }
  main, header { padding: 0; max-width: none; }
  header { color: var(--ink); background: none; }
  .cards { margin-top: 8px; }
  .card { box-shadow: none; }
  .back { display: none; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 4px; white-space: normal; }
  table.dense { font-size: 7pt; }
  table.dense td, table.dense th { padding: 2px; }
  table.dense td { white-space: nowrap; }
  th[scope="row"] { position: static; }
  ul.compact { font-size: 8.5pt; }
  h2, h3, h4, .asked { break-after: avoid; }
  .samples { grid-template-columns: repeat(3, 1fr); }
  td.words { min-width: 0; }
  figure, tr, .card { break-inside: avoid; }
  .broad svg, .broad img { min-width: 0; object-fit: contain; object-position: left; }
  .samples .broad img { max-height: 64mm; }
  #ops .broad svg { max-height: 72mm; }
}
"""


def document(title: str, kicker: str, head: str, parts: Iterable[str], foot: str) -> str:
    """A whole page.

    Args:
        title: of the window, as text.
        kicker: small words above the head, as text.
        head: HTML of the banner.
        parts: HTML below it; empty ones are left out.
        foot: last words, as text.
    """
    body = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head>
<body><header><div>
<small>ibnvision · {html.escape(kicker)}</small>{head}
</div></header>
<main>
{body}
<footer>{html.escape(foot)}</footer>
</main></body></html>
"""


def picture(
    content: bytes, alt: str, form: str = "png", size: tuple[int, int] | None = None
) -> str:
    """An image, carried inside the page; form: png or webp; size: width and height, so that the
    page does not move when it appears.
    """
    coded = base64.b64encode(content).decode("ascii")
    place = f' width="{size[0]}" height="{size[1]}"' if size else ""
    return f'<img alt="{html.escape(alt)}"{place} src="data:image/{form};base64,{coded}">'


def legend(classes: Sequence[str]) -> str:
    """Classes in the colours of predictions."""
    cells = "".join(
        f'<span><i style="background: rgb({r}, {g}, {b})"></i>{html.escape(name)}</span>'
        for name, (r, g, b) in zip(classes, data.palette(classes).tolist(), strict=True)
    )
    return f'<p class="legend">{cells}</p>'


def figure(drawing: str, caption: str, kind: str = "") -> str:
    """Inline SVG or an image, with its caption, if any.

    kind: broad for one that a phone scrolls sideways, small for one that a desk does not enlarge.
    """
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    if kind == "broad":
        drawing = (
            f'<div class="wide" role="region" tabindex="0" aria-label="figure">{drawing}</div>'
        )
    return f'<figure class="{kind}">{drawing}{text}</figure>'


def cards(found: Iterable[tuple[str, str]]) -> str:
    """Large values, each above its words; both are text."""
    cells = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>'
        for value, text in found
    )
    return f'<div class="cards">{cells}</div>'
