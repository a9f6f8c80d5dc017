import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from ibnvision.benchmark import (
    BENCHES,
    blocks,
    findings,
    page_figures,
    page_plots,
    record_page,
    targets,
)

from .test_detection import records as detection_records
from .test_resolution import records as resolution_records
from .test_targets import times

VOID = {"meta", "br", "img"}
MISSED = "CPU forward, nchw: times eager, geometric mean"  # at least 6 x
STUDY = {
    "bench": "generalization", "run": "20300102", "quick": False, "device_type": "cpu",
    "device": "a <processor>", "torch": "2", "python": "3", "ibnvision": "1", "threads": 1,
    "command": "ibnvision benchmark generalization", "date": "2030-01-02T00:00:00",
    "commit": "feed", "backbone": "resnet18", "study": "resnet18, 3 rows", "protocol": 64 * "a",
}  # fmt: skip


class Balance(HTMLParser):
    """Counts open tags; every end must match the last start that is open."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.resources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.note(tag, dict(attrs))

    def handle_startendtag(self, tag, attrs):
        self.note(tag, dict(attrs))

    def note(self, tag, found):
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.resources += [v for k, v in found.items() if k in ("src", "href") and tag != "a"]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"


def parsed(text):
    found = Balance()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def study():
    """Rows of a generalization study, BN and IBN-a with a speed, ISW without."""
    values = {"BN": 30.0, "BN + jitter": 40.0, "IBN-a": 35.0, "ISW": 44.0}
    common = STUDY | {"metric": "miou", "augment": "flip", "n": 5, "std": 1.0, "role": "derived"}
    found = [
        common | {"model": row, "column": c, "value": v, "low": v - 2, "high": v + 2}
        for row, v in values.items()
        for c in ("source", "target mean")
    ]
    spread = {"q1": 90.0, "q3": 120.0}
    speeds = [("BN", "kernel", 100.0), ("BN", "fallback", 80.0), ("IBN-a", "kernel", 95.0)]
    found += [
        STUDY | {"metric": "training images/s", "model": m, "backend": b, "value": v}
        | {"spread": spread}
        for m, b, v in speeds
    ]  # fmt: skip
    apart = {"metric": "difference", "row": "IBN-a", "rival": "BN", "n": 5, "unit": "mIoU points"}
    cells = (("source", -2.0, -3.0, -1.0, 0), ("target mean", 5.0, 4.0, 6.0, 5))
    return found + [
        STUDY | apart | {"column": c, "value": v, "low": low, "high": high, "ahead": ahead}
        for c, v, low, high, ahead in cells
    ]


def ops():
    """One case of an operator, five times as fast as eager: below the bar."""
    made = times("20300101", {"kernel": 1.0, "eager": 5.0, "compiled": 3.0, "copy": 0.5})
    return [r | {"torch": "2", "unit": "ms"} for r in made]


def everything():
    found = [*ops(), *study(), *detection_records(), *resolution_records()]
    return sorted(found, key=lambda r: r["run"])


@cache
def whole():
    """The page over everything, made once."""
    return record_page.page_of(everything())


def section(text, name):
    return text.split(f'id="{name}"')[1].split("</section>")[0]


def test_page_is_well_formed_and_needs_nothing_else():
    text = whole()
    found = parsed(text)
    assert len(found.ids) == len(set(found.ids))
    assert all(link[1:] in found.ids for link in found.links)
    assert all(link.startswith(("#", "data:")) for link in found.resources)
    inner = [link[1:] for link in found.resources if link.startswith("#")]
    assert inner and set(inner) <= set(found.ids)  # of the figures
    assert not re.search(r"https?:|@import|<script|<link|<iframe", text)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(found.ids)
    assert text.count("<svg") == text.count("<title>") - 1 > 3


def test_every_question_has_a_section_and_says_what_is_asked():
    assert sorted(BENCHES) == sorted(blocks.MAKERS)
    text = record_page.page_of([])
    for bench in BENCHES:
        assert re.search(r'<p class="asked">[^<]+\?</p>', section(text, bench)), bench


def test_sections_without_records_say_so():
    empty = record_page.page_of([])
    assert all(blocks.NOTHING in section(empty, b) for b in (*BENCHES, "headline", "environment"))
    text = whole()
    for bench in ("ops", "generalization", "detection", "resolution"):
        assert blocks.NOTHING not in section(text, bench)
    assert blocks.NOTHING in section(text, "models")


def test_a_missed_target_is_lost_and_a_met_one_won():
    text = whole()
    row = next(x for x in section(text, "lost").splitlines() if MISSED in x)
    assert "&gt;= 6 x" in row and ">5<" in row
    assert MISSED not in section(text, "won")
    met = "CPU forward, nchw: times compiled, geometric mean"
    assert met in section(text, "won") and met not in section(text, "lost")
    found = findings.judge(everything())
    counts = {None: 0, True: 0, False: 0}
    for f in found:
        counts[f.met if f else None] += 1
    for key, words in ((False, "missed"), (True, "met"), (None, "not measured yet")):
        assert f"<b>{counts[key]}</b><span>targets {words}<" in text
    assert section(text, "open").count("GPU") == sum("GPU" in t.text for t in targets.TARGETS)


def test_quick_runs_are_left_out():
    text = record_page.page_of([r | {"quick": True} for r in ops()])
    assert blocks.NOTHING in section(text, "ops") and MISSED not in section(text, "lost")


def test_losses_and_wins_of_pairs_and_sentences():
    text = whole()
    pair = "resnet18: IBN-a minus BN, "
    assert f"{pair}source: -2.0 (-3.0 to -1.0) mIoU points" in section(text, "lost")
    assert f"{pair}target mean: +5.0 (+4.0 to +6.0) mIoU points" in section(text, "won")
    assert "absolute, Lambda against absolute, dense, scene: behind at" in section(text, "lost")
    assert "RoPE native, Lambda, limit" in section(text, "won")


def test_headline_draws_rows_at_the_speed_of_their_network():
    figure = page_plots.headline(study())
    axes = figure.axes[0]
    drawn = {bars.get_label(): tuple(bars[0].get_xydata()[0]) for bars in axes.containers}
    assert drawn == {"BN": (100, 30), "BN + jitter": (100, 40), "IBN-a": (95, 35)}
    assert page_plots.without_speed(study()) == ["ISW"]
    assert "resnet18: ISW." in section(record_page.page_of(study()), "headline")
    assert page_plots.headline([r for r in study() if r["metric"] == "miou"]) is None


def test_copies_are_times_by_that_of_the_copy():
    (name, figure), *rest = page_plots.copies(ops()).items()
    assert name == "ibn_norm, fp32, nchw" and not rest
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert lines["kernel"] == [2.0] and lines["eager"] == [10.0]


def test_environment_names_run_and_protocol_and_escapes():
    text = section(record_page.page_of(study()), "environment")
    for part in ("a &lt;processor&gt;", "<code>feed</code>", "2030-01-02", 16 * "a"):
        assert part in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    assert record_page.write(everything(), tmp_path).read_bytes() == whole().encode()


def test_what_leads_stands_first_and_can_be_reached_from_anywhere():
    text = whole()
    ids = re.findall(r'<(?:section|nav)[^>]*? id="([^"]*)"', text)
    assert ids[:6] == ["contents", "headline", "tasks", "lost", "won", "open"]
    assert ids[6:] == [*BENCHES, "environment"]
    assert re.findall(r'<li><a href="#([^"]*)"', text.split("</nav>")[0]) == ids[1:]
    assert '<a class="back" href="#contents">' in text
    assert "All tasks in one table</h2>" in section(text, "tasks")


def test_losses_are_not_folded_away():
    text = whole()
    assert "<details open>" in section(text, "lost") and "<details>" in section(text, "won")


def test_a_figure_stands_where_the_text_shows_it_or_above(monkeypatch):
    text = section(whole(), "resolution")
    assert text.index("<svg") > text.index('<p class="asked">') and text.count("<svg") == 1
    assert "![" not in text
    seen = {"models": lambda runs: {"a.png": f"<svg>{len(runs)}</svg>"}}
    monkeypatch.setattr(page_figures, "FIGURES", seen)
    monkeypatch.setitem(blocks.MAKERS, "models", ("", lambda run: "words"))
    run = [STUDY | {"bench": "models", "metric": "time"}]
    assert "?</p><svg>1</svg><p>" in section(record_page.page_of(run), "models")
    monkeypatch.setitem(blocks.MAKERS, "models", ("", lambda run: "one\n\n![x](a.png)\n\ntwo"))
    assert "<p>one</p>\n<svg>1</svg>\n<p>two</p>" in section(record_page.page_of(run), "models")


def test_detection_bars_say_which_rows_do_not_count():
    figure = page_plots.detection_bars(detection_records())
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "Faster R-CNN BN" in texts and "FCOS BN (not converged)" in texts
    bars = {b.get_label(): b[0] for b in figure.axes[0].containers if b.get_label() in texts}
    assert bars["Faster R-CNN BN"].get_height() == 72.0
    assert bars["Faster R-CNN BN"].get_facecolor() != bars["Faster R-CNN IBN-a"].get_facecolor()
    assert bars["FCOS IBN-a"].get_hatch() and not bars["Faster R-CNN IBN-a"].get_hatch()


def test_a_statement_names_its_study(monkeypatch):
    monkeypatch.setattr(record_page.verdicts, "statements", lambda _: ["IBN-a is ahead of BN."])
    told = section(record_page.page_of([r | {"setting": "own"} for r in study()]), "won")
    assert "Generalization</a>, own, resnet18: IBN-a is ahead of BN." in told
    assert "Detection</a>: IBN-a is ahead of BN." in section(whole.__wrapped__(), "won")
