import hashlib

import numpy as np
import pytest

from ibnvision.benchmark import redraws, scores

FIELD = "psnr_rgb_db"  # a mean over images, so that all can be computed by hand
ROLES = {"home": "source", "fog": "target", "night": "target"}
RISING = np.arange(20.0)


def of_images(values, scenes="one"):
    rows = np.zeros((len(values), 5))
    rows[:, 0] = values
    name = np.array(hashlib.sha256(scenes.encode()).hexdigest())
    return {"images": np.array(len(values)), "rows": rows, "scenes": name}


def run(home, fog, night, *scenes):
    scenes = scenes or ("one", "one", "one")
    values = zip(("home", "fog", "night"), (home, fog, night), scenes, strict=True)
    return {domain: of_images(column, name) for domain, column, name in values}


STATS = {
    "ours": {0: run(RISING, RISING - 4, RISING - 6), 1: run(RISING + 2, RISING - 4, RISING - 6)},
    "theirs": {0: run(RISING, RISING - 5, RISING - 5)},
}


def test_interval_of_a_mean_is_that_of_the_normal_limit():
    found = redraws.intervals(redraws.redraw(STATS, ROLES, FIELD))
    # the mean of 20 redrawn values of 0..19: deviation sqrt(33.25 / 20) = 1.289, 95 % within 2.527
    home = found["theirs"]["source"]
    assert home["images"] == 20 and home["redraws"] == redraws.DRAWS
    assert (home["image_low"], home["image_high"]) == pytest.approx(
        (9.5 - 2.53, 9.5 + 2.53), abs=0.2
    )
    # the mean over the seeds of one redraw: everything is 1 higher
    assert found["ours"]["source"]["image_low"] == pytest.approx(home["image_low"] + 1)
    assert list(found["ours"]) == scores.columns(ROLES)


def test_rows_seeds_and_domains_of_the_same_scenes_see_the_same_redraw():
    drawn = redraws.redraw(STATS, ROLES, FIELD, draws=50)
    apart = redraws.difference_intervals(drawn, [("ours", "theirs"), ("ours", "none")])
    assert list(apart) == [("ours", "theirs")]
    cells = apart["ours", "theirs"]
    # constant offsets, image by image: no redraw can move a difference; only seed 0 is shared
    expected = {"source": 0, "fog": 1, "night": -1, "worst target": -1, "target mean": 0, "gap": 0}
    for column, value in expected.items():
        ends = cells[column]["image_low"], cells[column]["image_high"]
        assert ends == pytest.approx((value, value), abs=1e-9)
    for column in ("gap", "target mean"):  # one count for all domains, since their scenes are one
        assert cells[column]["images"] == 20
    gap = redraws.intervals(drawn)["theirs"]["gap"]
    assert (gap["image_low"], gap["image_high"]) == pytest.approx((5, 5))


def test_other_scenes_are_redrawn_independently():
    stats = {"row": {0: run(RISING, RISING, RISING, "one", "two", "three")}}
    drawn = redraws.redraw(stats, ROLES, FIELD)
    values = drawn.values["row"][0]
    assert abs(np.corrcoef(values["fog"], values["night"])[0, 1]) < 0.1
    assert values["target mean"].std() == pytest.approx(values["fog"].std() / 2**0.5, rel=0.1)
    assert drawn.images["target mean"] == 40 and drawn.images["gap"] == 60
    assert (values["worst target"] == np.minimum(values["fog"], values["night"])).all()


def test_a_set_of_the_first_scenes_is_redrawn_with_the_others():
    stats = {"row": {0: run(RISING, RISING, RISING[:12])}}
    drawn = redraws.redraw(stats, ROLES, FIELD)
    values = drawn.values["row"][0]
    # over 12 of 20 scenes: how often a redraw holds each one is the same in both means
    assert np.corrcoef(values["fog"], values["night"])[0, 1] > 0.4
    assert (values["fog"] == values["source"]).all()
    assert values["night"].mean() == pytest.approx(5.5, abs=0.1)
    assert drawn.images["night"] == 12
    assert drawn.images["target mean"] == 20 and drawn.images["gap"] == 20


def test_the_draw_depends_on_nothing_but_seed_and_scenes():
    one = redraws.redraw(STATS, ROLES, FIELD, draws=20).values["ours"][0]["fog"]
    again = redraws.redraw({"ours": STATS["ours"]}, {"fog": "target"}, FIELD, draws=20)
    assert (again.values["ours"][0]["fog"] == one).all()
    other = redraws.redraw(STATS, ROLES, FIELD, draws=20, seed=1).values["ours"][0]["fog"]
    assert (other != one).any()


def test_few_images_have_no_interval_nor_has_what_they_are_part_of():
    stats = {"row": {0: run(RISING, RISING, RISING[:9], "one", "one", "few")}}
    found = redraws.intervals(redraws.redraw(stats, ROLES, FIELD, draws=9))["row"]
    assert list(found) == ["source", "fog"]


def test_runs_of_other_pictures_are_refused():
    stats = {"row": {0: run(RISING, RISING, RISING), 1: run(RISING, RISING, RISING, "b", "b", "b")}}
    with pytest.raises(ValueError, match="row, seed 1 saw 20 others on home"):
        redraws.redraw(stats, ROLES, FIELD, draws=2)


def cell(row, seeds, images, **more):
    made = {"model": row, "column": "target mean", "value": 30.0, "n": 3, "redraws": 2000}
    made |= {"image_low": 30 - images / 2, "image_high": 30 + images / 2, "images": 100}
    return made | ({"low": 30 - seeds / 2, "high": 30 + seeds / 2} if seeds else {}) | more


def test_table_says_which_interval_is_wider():
    text = redraws.table([cell("BN", 4, 2), cell("IBN", 1, 3), cell("x", 9, 9, column="fog")], "%")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[2] == "| BN | 3 | 30.0 | 28.0 to 32.0 | 29.0 to 31.0 |" and "| x" not in text
    assert lines[-1].startswith("Over images: 2000 redraws of 100 test images, under the trained")
    assert lines[-1].endswith(
        "The interval over seeds is the wider one in 1 of 2 rows, that over images in 1 (median "
        "width 2.5 % over seeds, 2.5 over images)."
    )
    every = redraws.table([cell("BN", 4, 2)], "dB")
    assert "over seeds is the wider one in every row (median width 4.0 dB over seeds, 2.0" in every
    assert "over images is the wider one in every row" in redraws.table([cell("BN", 1, 2)], "%")
    assert redraws.table([cell("BN", 0, 2)], "%").endswith(
        "no interval over seeds, which takes three."
    )
    assert redraws.table([{"column": "target mean"}], "%") == ""
