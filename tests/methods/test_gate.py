"""The haze of an image, the ramp of the gate, and its calibration, by numbers known beforehand."""

import pytest
import torch
from torch.testing import assert_close

from ibnvision.benchmark.live_bytes import LiveBytes
from ibnvision.methods.gate import Gate, calibrate, gate_between, haziness


def flat(*levels: float) -> torch.Tensor:
    """Images [N, 3, 24, 32] of one grey each."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 24, 32).contiguous()


def test_haziness_of_a_colour_is_its_darkest_channel():
    image = torch.tensor([0.9, 0.25, 0.6]).view(1, 3, 1, 1).expand(1, 3, 20, 30)
    assert_close(haziness(image), torch.tensor([0.25]))
    assert_close(haziness(flat(0.0, 0.5, 1.0)), torch.tensor([0.0, 0.5, 1.0]))


def test_even_haze_raises_it_by_the_scattering_law():
    """A rising map of all values carries every quantile of every minimum along."""
    clear, t, light = torch.rand(4, 3, 40, 60), 0.6, 0.85
    hazy = clear * t + light * (1 - t)
    assert_close(haziness(hazy), haziness(clear) * t + light * (1 - t))
    assert (haziness(hazy) > haziness(clear)).all()


def test_sky_over_two_thirds_does_not_count():
    image = torch.ones(1, 3, 60, 60)
    image[:, :, 38:] = 0.1
    assert_close(haziness(image), torch.tensor([0.1]))
    image[:, :, 38:50] = 1.0
    assert haziness(image).item() == 1.0


def test_size_does_not_matter_and_memory_is_bounded():
    small = torch.rand(1, 3, 48, 64)
    large = small.repeat_interleave(16, 2).repeat_interleave(16, 3)
    with LiveBytes() as live:
        found = haziness(large)
    assert_close(found, haziness(small))
    assert live.peak < large.nbytes / 50
    assert_close(haziness(large.double()), found)
    assert haziness(torch.full((1, 3, 1, 500), 0.3)).item() == pytest.approx(0.3)


def test_weight_is_a_ramp():
    gate = Gate(0.2, 0.4)
    found = [gate.weight(flat(level)) for level in (0.0, 0.2, 0.25, 0.3, 0.4, 0.9)]
    assert found == pytest.approx([0, 0, 0.25, 0.5, 1, 1], abs=1e-6)
    assert found[0] == 0 and found[-1] == 1


def test_a_clear_image_comes_back_itself_and_is_not_restored():
    clear = flat(0.1)

    def refuse(image):
        raise AssertionError("called")

    assert Gate(0.2, 0.4).restore(clear, refuse) is clear


def test_a_hazy_image_comes_back_as_the_restorer_gave_it():
    result = torch.rand(1, 3, 24, 32)
    assert Gate(0.2, 0.4).restore(flat(0.5), lambda image: result) is result


def test_between_the_thresholds_both_are_mixed():
    mixed = Gate(0.2, 0.4).restore(flat(0.25), lambda image: image - 0.2)
    assert_close(mixed, flat(0.25 - 0.25 * 0.2), atol=1e-6, rtol=0)


def test_calibration_spans_the_gap_or_the_overlap():
    levels = [i / 100 for i in range(101)]
    gate = calibrate([0.2 * v for v in levels], [0.3 + 0.3 * v for v in levels])
    assert gate == pytest.approx((0.19, 0.315))
    gate = calibrate([0.4 * v for v in levels], [0.2 + 0.4 * v for v in levels])
    assert gate == pytest.approx((0.22, 0.38))


def test_a_measure_that_tells_nothing_gives_no_gate():
    assert calibrate([], [0.5]) is None and calibrate([0.1], []) is None
    assert calibrate([0.5, 0.6], [0.1, 0.2]) is None
    assert calibrate([0.3] * 5, [0.3] * 5) is None


@pytest.mark.parametrize("ends", [(0.4, 0.2), (0.3, 0.3), (-0.1, 0.5), (0.5, 1.1)])
def test_ends_out_of_order_are_named(ends):
    with pytest.raises(ValueError, match=r"0 <= low < high <= 1, got"):
        gate_between(*ends)
    assert gate_between(0.1, 0.2) == (0.1, 0.2)
