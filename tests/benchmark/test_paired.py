import pytest

from ibnvision.benchmark import paired, scores

RUNS = {
    "ours": {0: {"day": 50.0, "fog": 30.0}, 1: {"day": 52.0, "fog": 31.0}, 2: {"day": 54.0}},
    "rival": {0: {"day": 49.0, "fog": 33.0}, 1: {"day": 50.0, "fog": 35.0}, 2: {"day": 51.0}},
}
SUMMARY = scores.summarize(RUNS, {"day": "source", "fog": "target"})


def test_differences_are_taken_seed_by_seed():
    apart = paired.difference(SUMMARY, "ours", "rival", "source")
    # 1, 2, 3: mean 2, deviation 1, so the half is 4.30265 / sqrt(3)
    assert (apart["value"], apart["n"], apart["ahead"]) == (2.0, 3, 3)
    assert (apart["low"], apart["high"]) == pytest.approx((-0.48414, 4.48414), abs=1e-4)
    assert apart["p"] == pytest.approx(0.07418, abs=1e-4)  # of t = 3.4641 at 2 degrees
    fog = paired.difference(SUMMARY, "ours", "rival", "fog")
    assert fog == {"value": -3.5, "n": 2, "ahead": 0}  # the seeds that both have
    assert paired.difference(SUMMARY, "ours", "none", "source") is None


def test_signed_text():
    assert paired.signed({"value": -1.25, "low": -2.0, "high": -0.5}, 1) == "-1.2 (-2.0 to -0.5)"
    assert paired.signed({"value": 3.0}) == "+3.00" and paired.signed(None) == "-"


def difference(column, low, high):
    return {
        "column": column,
        "value": (low + high) / 2,
        "low": low,
        "high": high,
        "n": 3,
        "p": 0.03,
    }


def test_what_is_shown_is_told_as_plainly_for_losses():
    found = [difference("source", -3, -1), difference("fog", 1, 2), difference("rain", -1, 5)]
    text = paired.shown(found, str.upper, "points", 1)
    assert text.startswith(
        "Shown to help on: FOG (p = 0.03). Shown to harm on: SOURCE (p = 0.03). "
    )
    assert "Nothing is shown on RAIN: there the 95 % interval holds 0." in text
    assert "On SOURCE a difference had to exceed 1.0 points to show" in text
    assert "4.3 standard errors" in text and text.endswith(
        " to either side (a signed-rank test over 3 seeds cannot fall below p = 0.25); 3 columns "
        "are looked at by paired t tests without correction"
    )
    old = [{k: v for k, v in r.items() if k != "p"} for r in found]  # recorded before p was
    assert paired.shown(old, str, "points").startswith("Shown to help on: fog. ")


def test_without_intervals_nothing_is_shown():
    text = paired.shown([{"column": "fog", "value": 9.0, "n": 2}], str, "points")
    assert text == "2 seeds give no interval, so nothing is shown about it."
