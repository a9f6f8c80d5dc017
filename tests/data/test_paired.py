import cv2
import numpy as np
import pytest
import torch

from ibnvision.data.paired import Paired, Unpaired
from ibnvision.data.pairing import Pair
from ibnvision.data.view import draw_view


def write(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    return path


def noise(height, width, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype, endpoint=True)


def coded(height, width, add=0):
    """16 bit, with a value of its own at every place: row, column and a constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows + add, columns + add, 0 * rows + 7], axis=2).astype(np.uint16)


@pytest.fixture
def places(tmp_path):
    """One pair of 9 x 12 pixels that tell where they are; the clear one adds 100."""
    hazy = write(tmp_path / "hazy.png", coded(9, 12))
    return Paired("own", [Pair(hazy, write(tmp_path / "clear.png", coded(9, 12, 100)))])


def values(image):
    return (image * 65535).round().long()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_items_and_pictures_hold_the_values_of_the_files(tmp_path, dtype):
    hazy, clear = noise(10, 14, dtype), noise(10, 14, dtype, seed=1)
    pair = Pair(write(tmp_path / "a.png", hazy), write(tmp_path / "b.png", clear))
    data = Paired("own", [pair])
    item, top = data[0], np.iinfo(dtype).max
    assert len(data) == 1 and item["domain"] == "own"
    for key, pixels in (("image", hazy), ("target", clear)):
        assert item[key].shape == (3, 10, 14) and item[key].dtype == torch.float32
        expected = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / top
        assert torch.equal(item[key], expected)
    for bytes_, pixels in zip(data.picture(0), (hazy, clear), strict=True):
        expected = np.rint(pixels.astype(np.float64) * 255 / top)
        assert bytes_.dtype == np.uint8
        np.testing.assert_array_equal(bytes_, expected)


def test_jpeg_beside_png_and_grey_beside_colour(tmp_path):
    flat = np.full((16, 16, 3), (120, 60, 30), np.uint8)
    pair = Pair(write(tmp_path / "a.jpg", flat), write(tmp_path / "a.png", flat))
    item = Paired("own", [pair])[0]
    assert torch.allclose(item["image"], item["target"], atol=2 / 255)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((16, 16), 51, np.uint8))
    grey = Paired("own", [Pair(tmp_path / "grey.png", pair.clear)])[0]["image"]
    assert torch.equal(grey, torch.full((3, 16, 16), 0.2))


@pytest.mark.parametrize("size", [(4, 4), (4, 5), (9, 12)], ids=str)
def test_draw_is_the_crop_that_the_generator_says(places, size):
    whole = places[0]
    for seed in range(20):
        item = places.draw(0, torch.Generator().manual_seed(seed), size)
        again = torch.Generator().manual_seed(seed)
        top, left = (
            int(torch.randint(n, (), generator=again)) for n in (10 - size[0], 13 - size[1])
        )
        turns = int(torch.randint(4, (), generator=again)) if size[0] == size[1] else 0
        mirror = int(torch.randint(2, (), generator=again))
        for key in ("image", "target"):
            part = whole[key][:, top : top + size[0], left : left + size[1]]
            part = torch.rot90(part, turns, (1, 2))
            assert torch.equal(item[key], part.flip(2) if mirror else part)
        assert item["domain"] == "own"


def test_draw_takes_the_same_view_of_both_and_reaches_every_place_and_turn(places):
    generator = torch.Generator().manual_seed(0)
    corners, turns = set(), set()
    for _ in range(600):
        item = places.draw(0, generator, (8, 8))
        hazy, clear = values(item["image"]), values(item["target"])
        assert torch.equal(clear[:2], hazy[:2] + 100) and torch.equal(clear[2], hazy[2])
        corners.add((int(hazy[0].min()), int(hazy[1].min())))
        turns.add(
            (
                int(hazy[0, 0, 0] - hazy[0].min()),
                int(hazy[1, 0, 0] - hazy[1].min()),
                bool(hazy[0, 0, 1] == hazy[0, 0, 0]),
            )
        )
    assert corners == {(top, left) for top in range(2) for left in range(5)}
    assert len(turns) == 8  # four corners that come to the top left, each with its mirror image


def test_nothing_but_the_generator_decides(places):
    before = torch.get_rng_state()
    one = places.draw(0, torch.Generator().manual_seed(3), (4, 4))
    torch.rand(5)
    np.random.rand()
    two = places.draw(0, torch.Generator().manual_seed(3), (4, 4))
    assert torch.equal(one["image"], two["image"]) and torch.equal(one["target"], two["target"])
    torch.set_rng_state(before)
    places.draw(0, torch.Generator().manual_seed(3), (4, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(places[0]["image"], places[0]["image"])


def test_a_picture_smaller_than_the_crop_is_named(places):
    with pytest.raises(ValueError, match=r"hazy.png': a crop of 10x4 .*must fit.* of 9x12; train"):
        places.draw(0, torch.Generator(), (10, 4))
    with pytest.raises(ValueError, match="a crop of 4x13"):
        places.draw(0, torch.Generator(), (4, 13))
    with pytest.raises(ValueError, match="a crop of 0x4"):
        draw_view(torch.Generator(), (9, 12), (0, 4))
    assert places.check() == [] and places.check((9, 12)) == []
    assert len(places.check((9, 13))) == 1


def test_border_is_cut_only_where_it_is_exact(tmp_path):
    pixels = noise(30, 36)
    hazy = write(tmp_path / "hazy.png", noise(24, 30, seed=1))
    pair = Pair(hazy, write(tmp_path / "clear.png", pixels))
    target = Paired("own", [pair], border=3).picture(0)[1]
    np.testing.assert_array_equal(target, pixels[3:27, 3:33])
    for border in (0, 2, 4):
        wrong = Paired("own", [pair], border=border)
        with pytest.raises(ValueError, match=r"clear.png' must have.*30x36.*hazy.png' 24x30"):
            wrong[0]
    write(hazy, noise(30, 36))  # of one size already: nothing to cut
    np.testing.assert_array_equal(Paired("own", [pair], border=3).picture(0)[1], pixels)


def test_check_names_every_broken_pair_and_reads_on(tmp_path):
    good = write(tmp_path / "good.png", noise(8, 8))
    small = write(tmp_path / "small.png", noise(8, 6))
    (tmp_path / "text.png").write_text("not a picture")
    depth = tmp_path / "depth.tiff"
    cv2.imwrite(str(depth), np.zeros((8, 8, 3), np.float32))
    bad = [
        Pair(good, small),
        Pair(good, good),
        Pair(tmp_path / "text.png", good),
        Pair(depth, good),
    ]
    data = Paired("own", bad)
    problems = data.check()
    assert len(problems) == 3
    assert "small.png' must have the size" in problems[0]
    assert "cannot read" in problems[1] and "text.png" in problems[1]
    assert "depth.tiff' must have 8 or 16 bits a channel, got float32" in problems[2]
    assert data.check(indices=[0, 1]) == problems[:1]
    assert Unpaired("real", [good, tmp_path / "text.png"]).check() == [problems[1]]


def test_fingerprint_follows_pixels_names_pairs_and_border(tmp_path):
    one = Pair(write(tmp_path / "1.png", noise(8, 8)), write(tmp_path / "1c.png", noise(8, 8)))
    two = Pair(write(tmp_path / "2.png", noise(8, 8)), one.clear)

    def print_of(pairs=(one, two), **options):
        return Paired("own", list(pairs), **options).fingerprint()

    before = print_of()
    assert before == print_of() and len(before) == 64
    assert len({before, print_of([one]), print_of([two, one]), print_of(border=1)}) == 4
    pixels = noise(8, 8)
    pixels[7, 7, 2] ^= 1
    write(two.hazy, pixels)
    assert before != print_of()
    write(two.hazy, noise(8, 8))
    assert before == print_of()
    real = Unpaired("real", [one.hazy]).fingerprint()
    assert real != Unpaired("real", [one.clear]).fingerprint()


def test_limit_and_bad_arguments(tmp_path):
    pairs = [
        Pair(write(tmp_path / f"{i}.png", noise(4, 4)), tmp_path / f"{i}.png") for i in range(5)
    ]
    assert [pair.hazy.stem for pair in Paired("own", pairs, limit=2).pairs] == ["0", "2"]
    assert len(Paired("own", pairs, limit=9)) == 5
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Paired("own", pairs, limit=0)
    with pytest.raises(ValueError, match="own has no pairs"):
        Paired("own", [])
    with pytest.raises(IndexError, match=r"\[0, 5\), got 5"):
        Paired("own", pairs)[5]
