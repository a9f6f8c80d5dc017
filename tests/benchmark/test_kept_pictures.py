import io
import json

import numpy as np
import pytest
from PIL import Image

from ibnvision.benchmark import kept_pictures, page_samples

ROWS = ("Faster R-CNN BN", "Faster R-CNN BN, restored", "FCOS BN")
FIRST = {
    "bench": "detection", "run": "20300101", "commit": "feed", "metric": "ap50", "n": 3,
    "std": 1.0, "not_converged": "",
}  # fmt: skip
ROLES = {"streets_day_boxes": "source", "streets_fog_boxes": "target"}


def drawn(path, colour, height=40, noise=0):
    """A PNG of two scenes, the first of one colour, the second white."""
    picture = np.full((height, 80, 3), 255, np.uint8)
    generator = np.random.default_rng(noise)
    picture[: height // 2] = generator.integers(0, 256, (height // 2, 80, 3)) if noise else colour
    Image.fromarray(picture).save(path)


@pytest.fixture
def study(tmp_path):
    """results.json of two domains and three rows; by day the restored row draws what it did
    before."""
    folder, names = tmp_path / "out" / "pictures", {}
    folder.mkdir(parents=True)
    for i, domain in enumerate(ROLES):
        names[domain] = {row: f"{i}{j}.png" for j, row in enumerate(ROWS)}
        for j in range(3):
            drawn(folder / f"{i}{j}.png", (0, 0, 200) if i + j > 1 else (200, 0, 0))
    runs = [{"seed": 7}, {"seed": 8}]
    results = {
        "roles": ROLES,
        "config": {"data": {}, "steps": 1},
        "steps": dict.fromkeys(ROWS, 300),
        "protocol": 64 * "a",
        "rows": [{"name": row, "runs": runs} for row in ROWS],
        "pictures": {"scores": "scores.png", "detections": names},
    }
    return results, folder, tmp_path / "results" / "detection.jsonl"


def cells(**more):
    values = {"source": 70.0, "streets_fog_boxes": 20.25}
    return [
        FIRST | more | {"model": row, "column": column, "value": value + i}
        for column, value in values.items()
        for i, row in enumerate(ROWS)
    ]


def test_what_is_kept_is_the_first_scene_and_what_it_shows(study):
    results, folder, file = study
    paths = kept_pictures.keep_pictures(results, cells(), folder, file)
    found = kept_pictures.read(file.parent)
    assert [file.parent / "pictures" / s.file for s, _ in found] == paths and len(paths) == 4
    first, content = found[0]
    assert (first.domain, first.role, first.rows) == ("streets_day_boxes", "source", ROWS[:2])
    assert (first.question, first.run, first.study) == ("detection", "20300101", "")
    assert (first.seed, first.step, first.commit, first.protocol) == (7, 300, "feed", 64 * "a")
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    assert picture.size == (first.width, first.height) == (80, 20)
    assert np.abs(np.asarray(picture).astype(int) - (200, 0, 0)).max() < 12  # none is white
    assert [s.rows for s, _ in found[2:]] == [(ROWS[0],), ROWS[1:]]
    lines = (file.parent / "pictures" / "index.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["words"] == first.words and len(lines) == 4


def test_a_new_run_takes_the_place_of_the_old_one_alone(study):
    results, folder, file = study
    kept_pictures.keep_pictures(results, cells(study="other"), folder, file)
    kept_pictures.keep_pictures(results, cells(), folder, file)
    fewer = {d: {ROWS[2]: rows[ROWS[2]]} for d, rows in results["pictures"]["detections"].items()}
    results["pictures"]["detections"] = fewer
    kept_pictures.keep_pictures(results, cells(run="20300102"), folder, file)
    found = [s for s, _ in kept_pictures.read(file.parent)]
    assert [s.run for s in found] == 4 * ["20300101"] + 2 * ["20300102"]
    names = {path.name for path in (file.parent / "pictures").iterdir()}
    assert names == {s.file for s in found} | {"index.jsonl"}


def test_frames_of_a_folder_are_named_and_not_kept(study):
    results, folder, file = study
    results["config"]["data"] = {"streets_fog_boxes": "/somewhere"}
    paths = kept_pictures.keep_pictures(results, cells(), folder, file)
    found = kept_pictures.read(file.parent)
    assert len(paths) == 2 and [s.file for s, _ in found[2:]] == [""] and found[2][1] == b""
    assert "Not shown: fog." in page_samples.samples([cells()], found)


def test_large_pictures_shrink_until_all_keep_the_bounds(study, monkeypatch):
    results, folder, file = study
    names = results["pictures"]["detections"]["streets_day_boxes"].values()
    for i, name in enumerate(names, 1):
        drawn(folder / name, None, noise=i)
    monkeypatch.setattr(kept_pictures, "LARGEST", 1200)
    monkeypatch.setattr(kept_pictures, "STEPS", ((80, 90), (40, 60), (20, 30)))
    paths = kept_pictures.keep_pictures(results, cells(), folder, file)
    assert max(path.stat().st_size for path in paths) <= 1200
    assert {s.width for s, _ in kept_pictures.read(file.parent)} == {40}
    monkeypatch.setattr(kept_pictures, "STUDY", 1000)  # of all: what stands last is taken
    kept_pictures.keep_pictures(results, cells(), folder, file)
    assert {s.width for s, _ in kept_pictures.read(file.parent)} == {20}


def test_without_a_file_or_pictures_nothing_is_kept(study):
    results, folder, file = study
    assert kept_pictures.keep_pictures(results, cells(), folder, None) == []
    assert kept_pictures.keep_pictures(results | {"pictures": {}}, cells(), folder, file) == []
    assert not file.parent.exists() and kept_pictures.read(file.parent) == []
    with pytest.raises(KeyError, match="no pictures are kept of 'ops', only of generalization"):
        kept_pictures.keep_pictures(results, cells(bench="ops"), folder, file)


def test_every_study_says_what_its_pictures_show():
    rows = [{"name": "BN", "runs": [{}]}, {"name": "ISW", "runs": []}]
    pictures = {"scores": "s.png", "predictions": {"streets_fog": "f.png"}}
    (one,) = kept_pictures.DRAWN["generalization"]({"rows": rows, "pictures": pictures})
    assert (one.file, one.domain, one.rows, one.scenes) == ("f.png", "streets_fog", ("BN",), 1)
    (one,) = kept_pictures.DRAWN["dehazing"]({"pictures": {"haze": "h.png"}})
    assert one.rows == ("hazy input", "dark channel prior", "DEA-Net")


def test_captions_hold_the_scores_of_the_records(study):
    results, folder, file = study
    kept_pictures.keep_pictures(results, cells(), folder, file)
    kept = kept_pictures.read(file.parent)
    run = cells()
    run[2]["not_converged"] = "70.0 on the source"
    text = page_samples.samples([run], kept)
    assert "<h4>day <span>source</span></h4>" in text and "<h4>fog <span>unseen" in text
    assert "Faster R-CNN BN 70.0 · Faster R-CNN BN, restored 71.0<" in text
    assert "FCOS BN 72.0 (not converged)<" in text and ">Faster R-CNN BN 20.2<" in text
    assert text.count("data:image/webp;base64,") == 4 and 'width="80" height="20"' in text
    assert "Networks of seed 7 after 300 steps, commit feed" in text
    assert page_samples.samples([cells(run="20300102")], kept) == ""  # of another run
