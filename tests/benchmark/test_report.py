import base64
import json
import re

import pytest

from ibnvision.benchmark import blocks, record, report, targets

from .test_scores import results
from .test_targets import times

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("scores", "curves", "classes", "fog"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(PIXEL)
    full = results() | {
        "classes": ["road", "pole", "person"],
        "images": {"streets_fog": 100},
        "ops": {"ibn_norm cpu": "fallback: <not built>"},
        "config": {"model": "resnet18_ibn_b", "model_args": {}, "steps": 240, "batch_size": 16}
        | {"optimizer": "sgd", "lr": 0.05, "train_domains": ["streets_day"]},
        "environment": {"command": "ibnvision benchmark generalization", "device": "a processor"}
        | {"ibnvision": "1", "torch": "2", "python": "3", "commit": "abc", "date": "2030-01-01"},
        "recipe": "feed",
        "wall_s": 321.0,
        "scene_cpu_s": 0.02,
        "throughput": [
            {
                "row": "IBN-b",
                "ops": ops,
                "images_per_s": rate,
                "n": 7,
                "spread": {"q1": 1.0, "q3": 2.0},
            }
            for ops, rate in (("kernel", 120.0), ("fallback", 80.0))
        ],
        "pictures": {"scores": "scores.png", "curves": "curves.png", "classes": "classes.png"}
        | {"predictions": {"streets_fog": "fog.png"}},
    }
    (tmp_path / "results.json").write_text(json.dumps(full))
    return tmp_path


def test_page_is_self_contained_and_holds_the_numbers(folder):
    text = report.write_page(folder).read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(|<script|<link|https?:""", text)
    assert text.count("data:image/png;base64,") == 4
    assert base64.b64encode(PIXEL).decode() in text
    for number in ("22.0 <small>± 2.0", "+15.0", "1.50×", "321 s", "Seeds 2 were left out"):
        assert number in text
    assert "0123456789abcdef0123" in text and "resnet18_ibn_b" in text and "abc" in text


def test_page_escapes_what_others_wrote(folder):
    assert "&lt;not built&gt;" in report.write_page(folder).read_text()


def test_page_marks_the_best_of_each_column(folder):
    text = report.write_page(folder).read_text()
    line = text.split("<b>IBN-b</b>")[1].split("</tr>")[0]
    cells = re.findall(r"<td( class=\"best\")?>([\d.-]+)", line)
    assert ("", "57.0") in cells  # BN leads at home, with 59.0
    assert (' class="best"', "45.0") in cells  # fog


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="results.json: run `ibnvision benchmark"):
        report.write_page(tmp_path)


def test_rewrite_replaces_only_what_lies_between_the_markers():
    text = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    once = report.rewrite(text, {"x": "new"})
    assert once == "a\n<!-- generated: x -->\nnew\n<!-- end: x -->\nb\n"
    assert report.rewrite(once, {"x": "new"}) == once
    with pytest.raises(ValueError, match="<!-- generated: y --> and"):
        report.rewrite(text, {"y": "new"})


def test_report_rewrites_the_readme_from_records(tmp_path, capsys):
    records = times("20300101", {"kernel": 1.0, "eager": 9.0, "copy": 0.5})
    records = [r | {"op": "ibn_norm", "torch": "2", "unit": "ms"} for r in records]
    record.append(tmp_path / "results" / "ops.jsonl", records)
    names = ("targets", "tasks", *blocks.MAKERS)
    marks = "\n".join(f"<!-- generated: {n} -->\n<!-- end: {n} -->" for n in names)
    (tmp_path / "README.md").write_text(f"# Words stay\n{marks}\n")
    argv = ["--results", str(tmp_path / "results"), "--readme", str(tmp_path / "README.md")]
    assert report.main([*argv, "--runs", str(tmp_path / "none")]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# Words stay\n") and "Nothing is recorded yet." in text
    row = next(x for x in text.splitlines() if "forward (8, 64, 56, 56)" in x)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:5] == ["1", "2", "18"] and cells[7] == "9"
    assert len([x for x in text.splitlines() if "not measured" in x]) == len(targets.TARGETS) - 1


def test_every_operator_shows_its_newest_run():
    first = times("1", {"kernel": 1.0, "eager": 9.0, "copy": 0.5}, shape=[1, 2])
    second = times("2", {"kernel": 1.0, "eager": 5.0, "copy": 0.5}, shape=[3, 4])
    third = times("3", {"kernel": 1.0, "copy": 0.5}, shape=[5, 6], op="detail_conv")
    records = [r | {"torch": "2", "unit": "ms"} for r in (*first, *second, *third)]
    text = report.readme_tables(records)["ops"]
    assert "(1, 2)" not in text and "(3, 4)" in text and "(5, 6)" in text


def test_another_setting_stands_beside_the_presets_own():
    first = {"run": "a", "model": "BN"}
    later = {"run": "b", "model": "BN", "setting": "det_own"}
    assert blocks.newest([first, later], "setting") == [[first], [later]]
    newest = first | {"run": "c"}
    assert blocks.newest([first, later, newest], "setting") == [[later], [newest]]


def test_report_without_anything_says_so(tmp_path, capsys):
    argv = [
        "--results",
        str(tmp_path),
        "--readme",
        str(tmp_path / "no.md"),
        "--runs",
        str(tmp_path),
    ]
    assert report.main(argv) == 1
    assert "nothing to report" in capsys.readouterr().out
