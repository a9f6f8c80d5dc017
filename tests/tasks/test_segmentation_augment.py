import torch
from noise_batch import batch

from ibnvision.tasks import segmentation, segmentation_augment


def seeded():
    return torch.Generator().manual_seed(7)


def test_flip_turns_about_half_of_the_images_with_their_targets():
    old = batch()
    new = segmentation.augment(old, "flip", seeded())
    turned = [
        bool((a == b.flip(-1)).all()) for a, b in zip(new["image"], old["image"], strict=True)
    ]
    assert 20 < sum(turned) < 44
    for i, flip in enumerate(turned):
        image, target = old["image"][i], old["target"][i]
        assert torch.equal(new["image"][i], image.flip(-1) if flip else image)
        assert torch.equal(new["target"][i], target.flip(-1) if flip else target)
    assert torch.equal(old["image"], batch()["image"])  # the given batch is untouched


def test_jitter_sees_the_same_flips_and_changes_each_image_by_one_gain_and_offset_per_channel():
    old = batch()
    old["image"] = 0.3 + 0.1 * old["image"]  # far from the cut at 0 and 1
    flipped = segmentation.augment(old, "flip", seeded())
    new = segmentation.augment(old, "jitter", seeded())
    assert torch.equal(new["target"], flipped["target"])
    x, y = flipped["image"].flatten(2), new["image"].flatten(2)
    gain = (y.amax(2) - y.amin(2)) / (x.amax(2) - x.amin(2))
    offset = y.amin(2) - gain * x.amin(2)
    uncut = (y.amin(2) > 0) & (y.amax(2) < 1)
    assert uncut.float().mean() > 0.7
    assert 0.4 * 0.5 - 1e-3 < gain[uncut].min() and gain[uncut].max() < 1.6 * 1.3 + 1e-3
    assert gain[uncut].std() > 0.2
    assert offset[uncut].abs().max() < 0.15 + 1e-3
    assert new["image"].amin() >= 0 and new["image"].amax() <= 1


def test_zoom_sees_the_same_flips_and_enlarges_parts_of_about_half():
    old = batch()
    old["image"][:, 0] = old["target"] / 10  # what shows a pixel's label in the image too
    flipped = segmentation.augment(old, "flip", seeded())
    new = segmentation.augment(old, "zoom", seeded())
    same = [bool(torch.equal(a, b)) for a, b in zip(new["image"], flipped["image"], strict=True)]
    assert 20 < sum(same) < 44
    assert new["target"].dtype == old["target"].dtype
    for i, kept in enumerate(same):
        assert set(new["target"][i].unique().tolist()) <= set(old["target"][i].unique().tolist())
        if kept:
            assert torch.equal(new["target"][i], flipped["target"][i])


def test_a_part_is_the_one_drawn_at_the_size_of_the_whole():
    image = torch.arange(64.0).view(1, 8, 8).expand(3, 8, 8)
    target = torch.arange(64).view(8, 8)
    part, labels = segmentation_augment._part(
        image, target, 0.5, 0.999, 0.0
    )  # zoom 2, lowest, leftmost
    assert torch.equal(labels, target[4:, :4].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert part.shape == image.shape and part.min() == 32 and part.max() == 59
    assert torch.equal(segmentation_augment._part(image, target, 0.0, 0.5, 0.5)[1], target)


def test_no_augmentation_and_the_same_source_of_chance():
    assert torch.equal(segmentation.augment(batch(), "none", seeded())["image"], batch()["image"])
    one, two = (segmentation.augment(batch(), "jitter", seeded())["image"] for _ in range(2))
    assert torch.equal(one, two)


def test_further_kinds_join_the_same_flips():
    old = batch(6, 12, 16)
    flipped = segmentation.augment(old, "flip", seeded())
    for kind in ("photometric", "fourier"):
        new = segmentation.augment(old, kind, seeded())
        assert torch.equal(new["target"], flipped["target"])
        assert not torch.allclose(new["image"], flipped["image"], atol=0.02)
        assert torch.equal(new["image"], segmentation.augment(old, kind, seeded())["image"])
    both = segmentation.augment(old, "jitter+photometric", seeded())["image"]
    generator = seeded()
    jittered = segmentation.augment(old, "jitter", generator)["image"]
    assert torch.equal(both, segmentation_augment.photometric(jittered, generator))
