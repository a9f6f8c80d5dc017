import torch

from ibnvision.data.layered import VARIED, cut_out, layered, varied


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_far_is_one_and_near_is_above_zero():
    nearest = []
    for seed in range(30):
        clear, depth = layered(("coffee",), (32, 48), seeded(seed), smallest=0.5, vary=True, most=6)
        assert clear.shape == (3, 32, 48) and 0 <= clear.min() and clear.max() <= 1
        assert abs(float(depth.max()) - 1) < 1e-6
        nearest.append(float(depth.min()))
    assert 0 <= min(nearest) < 0.1 and 0.5 < max(nearest) <= 0.6


def test_without_cut_outs_the_depth_is_smooth_and_cut_outs_make_it_jump():
    def steepest(most):
        return max(
            float(
                layered(("coffee",), (64, 96), seeded(i), smallest=0.5, vary=False, most=most)[1]
                .diff(dim=1)
                .abs()
                .max()
            )
            for i in range(10)
        )

    assert steepest(0) < 0.15 < 0.3 < steepest(6)


def test_a_seed_decides_the_scene():
    arguments = {"smallest": 0.0, "vary": True, "most": 6}
    first, again, other = (
        layered(("coffee", "brick"), (32, 32), seeded(i), **arguments) for i in (3, 3, 4)
    )
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_cut_outs_cover_a_part():
    shares = torch.stack([cut_out(40, 60, seeded(i)).float().mean() for i in range(100)])
    assert 0.03 < shares.mean() < 0.4 and shares.max() < 0.9


def test_varied_pictures_stay_pictures():
    clear = torch.rand(3, 16, 16, generator=seeded())
    shown = [varied(clear, seeded(i)) for i in range(200)]
    assert all(0 <= s.min() and s.max() <= 1 for s in shown)
    kept = sum(torch.equal(s, clear) for s in shown) / 200
    assert abs(kept - (1 - VARIED["share"])) < 0.1
    means = torch.stack([s.mean() for s in shown])
    assert means.min() < 0.3 < 0.55 < means.max()
