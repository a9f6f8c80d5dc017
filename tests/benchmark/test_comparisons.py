import pytest

from ibnvision.benchmark import comparisons


def results(**values):
    """Rows of three or more seeds: name -> (source, target mean) by seed."""
    summary = {
        name.replace("_j", " + jitter").replace("_", "-"): {
            column: {"values": {str(i): v[k] for i, v in enumerate(seeds)}}
            for k, column in enumerate(comparisons.COLUMNS)
        }
        for name, seeds in values.items()
    }
    return {"rows": [{"name": name} for name in summary], "summary": summary}


TRAINED = results(
    BN=[(60, 20), (62, 24), (61, 22)],
    IBN_a=[(63, 30), (64, 33), (64, 31)],
    IBN_b=[(60, 35), (63, 38), (61.5, 36)],
    BN_j=[(58, 40), (60, 41)],
)


def test_differences_are_paired_by_seed():
    found = {(d["row"], d["rival"], d["column"]): d for d in comparisons.differences(TRAINED)}
    gain = found["IBN-b", "BN", "target mean"]
    assert gain["mean"] == pytest.approx((15 + 14 + 14) / 3) and gain["ahead"] == gain["n"] == 3
    half = 4.3027 * (1 / 3**0.5) / 3**0.5  # Student's quantile of two degrees, s = 1 / sqrt(3)
    assert gain["low"] == pytest.approx(gain["mean"] - half, abs=1e-3)
    jitter = found["BN + jitter", "BN", "target mean"]
    assert jitter["n"] == 2 and jitter["mean"] == pytest.approx((20 + 17) / 2)
    assert "low" not in jitter  # two seeds have no interval
    assert ("IBN-a + jitter", "IBN-a", "source") not in found


def test_the_ordering_is_told_as_it_came_out():
    text = comparisons.ordering(comparisons.differences(TRAINED))
    assert "across domains IBN-b is ahead of IBN-a" in text
    assert "at home it is not told apart from IBN-a" in text  # -3, -1, -2.5: 0 in the interval
    turned = results(IBN_a=[(63, 39), (64, 41), (64, 40)], IBN_b=[(60, 35), (61, 37), (61, 36)])
    text = comparisons.ordering(comparisons.differences(turned))
    assert "across domains IBN-b is behind IBN-a" in text and "at home it is behind IBN-a" in text
    assert comparisons.ordering([]) == "" and comparisons.table([]) == ""


def test_the_table_shows_intervals_and_counts():
    text = comparisons.table(comparisons.differences(TRAINED))
    line = next(row for row in text.splitlines() if "IBN-b - IBN-a" in row)
    assert "ahead in 3 of 3" in line and "+5.0 (" in line
    assert next(row for row in text.splitlines() if "BN + jitter - BN" in row).count("(") == 0
