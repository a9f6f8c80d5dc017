import pytest

from ibnvision.benchmark.calibration import calibration_cells

ROLES = {"day": "source", "fog": "target", "night": "target", "ink": "stress"}


def found(field, *runs):
    return {
        seed: {d: {"miou_pct": 50.0, field: e} for d, e in zip(ROLES, errors, strict=True)}
        for seed, errors in enumerate(runs)
    }


def test_errors_stand_in_the_columns_of_the_scores_and_the_worst_is_the_largest():
    runs = found(
        "ece_pct", (1.0, 10.0, 40.0, 30.0), (2.0, 12.0, 44.0, 30.0), (3.0, 20.0, 6.0, 30.0)
    )
    cells = {r["column"]: r for r in calibration_cells({"BN": runs}, ROLES)}
    assert list(cells) == ["source", "fog", "night", "worst target", "target mean", "ink"]
    assert cells["worst target"]["values"] == {"0": 40.0, "1": 44.0, "2": 20.0}
    mean = cells["target mean"]
    assert mean["values"] == {"0": 25.0, "1": 28.0, "2": 13.0} and mean["value"] == 22.0
    assert (mean["metric"], mean["unit"], mean["n"]) == ("ECE", "%", 3)
    # deviation 7.937, so the half is 4.30265 * 7.937 / sqrt(3)
    assert (mean["low"], mean["high"]) == pytest.approx((22 - 19.7176, 22 + 19.7176), abs=1e-3)
    assert (cells["source"]["role"], cells["fog"]["role"], mean["role"]) == (
        *("source", "target", "derived"),
    )


def test_detectors_have_that_of_their_boxes_and_restorers_none():
    study = {
        "FCOS": found("d_ece_pct", (5.0, 6.0, 7.0, 8.0)),
        "DEA-Net": found("psnr_rgb_db", (20.0, 20.0, 20.0, 20.0)),
        "failed": {},
    }
    records = calibration_cells(study, ROLES)
    assert {(r["model"], r["field"]) for r in records} == {("FCOS", "d_ece_pct")}
    assert all("low" not in r for r in records)


def test_an_undefined_error_is_left_out_with_what_averages_it():
    study = {"BN": found("ece_pct", (1.0, None, 40.0, 30.0), (3.0, 12.0, 44.0, 30.0))}
    cells = {r["column"]: r for r in calibration_cells(study, ROLES)}
    assert cells["source"]["value"] == 2.0 and cells["fog"]["values"] == {"1": 12.0}
    assert cells["target mean"]["values"] == {"1": 28.0}
    assert cells["worst target"]["values"] == {"1": 44.0} and cells["night"]["n"] == 2
