"""Paths of a command line: what lies there says what each is."""

import pytest
from PIL import Image

from graphprop.errors import InputError
from graphprop.pictures.arguments import sort_paths
from graphprop.pictures.heatmap import write_png
from graphprop.pictures.writing import unique


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2)).save(path)
    return path


@pytest.fixture
def compiled(tmp_path):
    folder = tmp_path / "cat.png"  # whatever it is called
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_files_folders_and_directories(tmp_path, compiled):
    one, two = picture(tmp_path / "p" / "b.png"), picture(tmp_path / "p" / "deep" / "a.jpg")
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    alone = tmp_path / "x.npy"
    alone.touch()
    found = sort_paths([alone, compiled, tmp_path / "p", one, compiled])
    assert found.directories == [compiled]
    assert found.pictures == [alone, one, two]


def test_globs_that_the_shell_left(tmp_path, compiled):
    one, two = picture(tmp_path / "p" / "b.png"), picture(tmp_path / "p" / "deep" / "a.png")
    assert sort_paths([tmp_path / "p" / "*.png"]).pictures == [one]
    assert sort_paths([tmp_path / "p" / "**" / "*.png"]).pictures == [one, two]
    assert sort_paths([tmp_path / "c*"]).directories == [compiled]
    with pytest.raises(InputError, match=r"nothing matches .*\*\.gif"):
        sort_paths([tmp_path / "*.gif"])


def test_a_name_with_letters_of_a_glob_is_a_name_first(tmp_path):
    odd = picture(tmp_path / "cat[1].png")
    picture(tmp_path / "cat1.png")
    assert sort_paths([odd]).pictures == [odd]


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError) as caught:
        sort_paths([tmp_path / "gone.png"])
    assert str(caught.value) == (
        f"there is neither a compiled directory nor a picture {tmp_path / 'gone.png'}"
    )


def test_own_drawings_in_a_folder_are_not_explained(tmp_path):
    one = picture(tmp_path / "p" / "b.png")
    write_png(Image.new("L", (2, 2)), tmp_path / "p" / "explanations.png", {})
    assert sort_paths([tmp_path / "p"]).pictures == [one]
    one.unlink()
    with pytest.raises(InputError, match="the 1 there were drawn by graphprop"):
        sort_paths([tmp_path / "p"])


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(InputError) as caught:
        sort_paths([tmp_path])
    assert str(caught.value) == (
        f"{tmp_path} holds no manifest.json, as a compiled directory does, and no picture either: "
        "give a PNG, JPEG, BMP, GIF, WebP, TIFF or PPM"
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
    ],
)
def test_names_are_made_unique(names, found):
    assert unique(names) == found
