import pytest

from ibnvision.benchmark import verdicts


@pytest.mark.parametrize(
    ("said", "sides"),
    [
        ("a against b: ahead at 2x (+1); behind at 3x (-1).", {"lost", "won"}),
        ("Shown to help on: none. Shown to harm on: none. Nothing is shown on fog.", {"open"}),
        ("Shown to help on: fog. Shown to harm on: none.", {"won"}),
        ("ahead on rain, behind on none.", set()),
        ("What does not work, less than two thirds kept: none.", set()),
        ("What does not work, less than two thirds kept: x (3).", {"lost"}),
        ("Not converged, so nothing is said about: x.", {"lost"}),
        ("x stands +1.0 points from y and -2.0 at home (shown, a loss).", {"lost", "won"}),
        ("One image, one thread.", set()),
    ],
)
def test_sides_of_a_sentence(said, sides):
    assert {side for side, found in verdicts.sorted_out([said]).items() if found} == sides


def test_statements_leave_out_origin_rules_tables_and_pictures():
    text = "`ibnvision benchmark x` on y.\n\nRows behind. Protocol 0123abc.\n\n| a |\n| --- |\n"
    text += "| b |\n\n- one.\n- two.\n\nthree.\n\n![p](p.png)"
    assert verdicts.statements(text) == ["one.", "two.", "three."]


def test_ratios_are_sorted_by_their_interval():
    def sides(metric, low, high):
        r = {"bench": "models", "model": "m", "value": 1.0, "metric": metric}
        return [k for k, v in verdicts.ratios([r | {"low": low, "high": high}]).items() if v]

    assert sides("times faster than plain", 1.1, 1.2) == ["won"]
    assert sides("times faster than plain", 0.8, 0.9) == ["lost"]
    assert sides("time by timm's resnet50", 1.1, 1.2) == ["lost"]
    assert sides("time by timm's resnet50", 0.9, 1.2) == ["open"]
    assert sides("recovered", 60.0, 70.0) == []
