import math

import pytest

from ibnvision.metrics import mean_corruption, target_mean, worst_domain

ROWS = {"fog": {"ap50_pct": 30.0}, "night": {"ap50_pct": 12.0}, "rain": {"ap50_pct": 18.0}}


def test_worst_and_mean_of_the_targets():
    assert worst_domain(ROWS, "ap50_pct") == ("night", 12.0)
    assert target_mean(ROWS, "ap50_pct") == pytest.approx(20)
    equal = {"a": {"x": 3}, "b": {"x": 3}}
    assert worst_domain(equal, "x") == ("a", 3.0)


def test_what_is_undefined_stays_so():
    rows = {**ROWS, "snow": {"ap50_pct": math.nan}}
    name, value = worst_domain(rows, "ap50_pct")
    assert name == "snow" and math.isnan(value)
    assert math.isnan(target_mean(rows, "ap50_pct"))


def test_mean_corruption_by_hand():
    rows = {"clean": {"ap_pct": 36.3}, "noise_1": {"ap_pct": 24.0}, "noise_2": {"ap_pct": 12.4}}
    found = mean_corruption(rows, "ap_pct", clean="clean")
    assert found == pytest.approx({"p": 36.3, "mpc": 18.2, "rpc_pct": 100 * 18.2 / 36.3})
    rows["clean"] = {"ap_pct": 0.0}
    assert math.isnan(mean_corruption(rows, "ap_pct", clean="clean")["rpc_pct"])


def test_missing_rows_are_named():
    with pytest.raises(ValueError, match=r"rows must hold at least one domain with ap_pct"):
        worst_domain({}, "ap_pct")
    with pytest.raises(ValueError, match=r"rows must hold at least one domain"):
        mean_corruption({"clean": {"ap_pct": 1.0}}, "ap_pct", clean="clean")
    with pytest.raises(ValueError, match=r"clean must be one of the rows, \['fog', .* got 'day'"):
        mean_corruption(ROWS, "ap50_pct", clean="day")
