import torch

from ibnvision.tasks.panels import legend

PALETTE = torch.tensor([[0, 0, 0], [250, 250, 250], [200, 0, 0]], dtype=torch.uint8)


def test_a_legend_has_a_line_for_each_word():
    made = legend(["a", "four", "bc"], PALETTE)
    assert made.shape == (3, 3 * 22 + 4, 16 + 8 * 4) and made.dtype == torch.uint8
    inside = [made[:, 22 * i + 20, 40].tolist() for i in range(3)]  # right of the words
    assert inside == PALETTE.tolist()
    assert (made[:, :4] == 255).all() and (made[:, :, :4] == 255).all()


def test_a_legend_fills_the_lines_of_a_width():
    made = legend(["a", "b", "c"], PALETTE.repeat(9, 1), width=200)
    assert made.shape == (3, 2 * 22 + 4, 200)
    assert made[:, 20, 80].tolist() == [0, 0, 0] and made[:, 20, 180].tolist() == [250] * 3
    assert made[:, 42, 80].tolist() == [200, 0, 0] and (made[:, 42, 100:] == 255).all()
    assert legend(["a"], PALETTE, width=40).shape == (3, 26, 40)


def test_words_are_readable_on_light_and_dark():
    made = legend(["road", "road", "road"], PALETTE)
    dark, light = made[:, 4:22], made[:, 26:44]
    assert dark[:, 2:-2, 6:-6].max() > 200 and light[:, 2:-2, 6:-6].min() < 50
