import pytest
from miniature_segmentation import write_image

from ibnvision.data import layout
from ibnvision.data.label_files import label_pairs
from ibnvision.data.layout import Place, find_labelled, pictures_below, search_labelled

FOLDERS = [("img/train", "lab/train"), ("img", "lab")]


def fill(root, *names):
    for name in names:
        write_image(root / name, 1, (2, 2))


def test_first_folders_with_pictures_and_first_home_win(tmp_path):
    fill(
        tmp_path, "set_v2/IMG/Train/10.png", "set_v2/IMG/Train/town/1.png", "set_v2/lab/train/x.png"
    )
    place = find_labelled("a set", tmp_path, FOLDERS, (".", "set*"))
    home = tmp_path / "set_v2"
    assert place == Place(home, home / "IMG" / "Train", home / "lab" / "train")
    assert find_labelled("a set", home, FOLDERS) == place
    fill(tmp_path, "img/3.png", "lab/3.png")
    assert find_labelled("a set", tmp_path, FOLDERS, (".", "set*")).home == tmp_path
    assert search_labelled(tmp_path / "nowhere", FOLDERS) is None


def test_messages(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        find_labelled("a set", tmp_path, FOLDERS, (".", "set*"))
    assert str(raised.value) == (
        f"no a set in '{tmp_path}': looked for img/train with lab/train beside it, or img with lab "
        "beside it, in any case in {.,set*}; found nothing"
    )
    for name in ("img", "lab"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="img' holds no .png, .jpg"):
        find_labelled("a set", tmp_path, FOLDERS)
    (tmp_path / "lab").rmdir()
    fill(tmp_path, "img/1.png")
    with pytest.raises(FileNotFoundError, match="img' is there, but no lab/ beside it"):
        find_labelled("a set", tmp_path, FOLDERS)


def test_labels_lie_as_their_images_do(tmp_path):
    fill(
        tmp_path, *(f"img/{n}.png" for n in ("10_i", "2_i", "town/2_i", "3_x", "._2_i", ".old/2_i"))
    )
    fill(tmp_path, *(f"lab/{n}.png" for n in ("10", "2", "town/2_b", "town/2_a")))
    place = Place(tmp_path, tmp_path / "img", tmp_path / "lab")

    def pairs(names, **options):
        found = label_pairs(place, names, end="_i", **options)
        return [tuple(str(p.relative_to(tmp_path))[4:-4] for p in pair) for pair in found]

    def names(stem):
        return [f"{stem}.png", f"{stem}_a.png", f"{stem}_b.png"]

    assert pairs(names) == [("2_i", "2"), ("10_i", "10"), ("town/2_i", "town/2_a")]
    assert pairs(names, deep=False) == [("2_i", "2"), ("10_i", "10")]
    with pytest.raises(
        FileNotFoundError, match="1 of 3 images have no label.*town/2_i.png'.*2.png in"
    ):
        pairs(lambda stem: [f"{stem}.png"])


def test_files_in_any_case(tmp_path):
    fill(tmp_path, "img/1_i.PNG", "img/2_I.png", "lab/1_a.PNG", "lab/2_A.png", "lab/2_a.png")
    place = Place(tmp_path, tmp_path / "img", tmp_path / "lab")
    found = label_pairs(place, lambda stem: [f"{stem}_A.png"], end="_i")
    # where the disk tells 2_A from 2_a, the exact name goes before the other
    assert [label.name for _, label in found] == ["1_a.PNG", "2_A.png"]


def test_order_is_that_of_the_names_and_not_of_the_disk(tmp_path, monkeypatch):
    names = ["1.png", "01.png", "001.png", "2.png", "A.png", "a.jpg"]
    for order in (names, names[::-1]):
        entries = {False: order, True: []}
        monkeypatch.setattr(layout, "_entries", lambda _, folders, e=entries: e[folders])
        found = [path.name for path in pictures_below(tmp_path)]
        assert found == ["001.png", "01.png", "1.png", "2.png", "a.jpg", "A.png"]
