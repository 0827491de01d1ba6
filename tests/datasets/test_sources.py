"""What data are: each picture has one id, in one order, however the data are listed."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphprop.datasets.sources import open_source
from graphprop.errors import InputError
from support.datasets import class_folders, picture, shard


def content(source, row):
    found = source.read(row)
    return found if isinstance(found, bytes) else found.read_bytes()


def test_a_folder_is_searched_and_its_first_folders_are_the_classes(tmp_path):
    class_folders(tmp_path / "data", 9)
    (tmp_path / "data/1/deep").mkdir()
    (tmp_path / "data/1/deep/x.png").write_bytes(picture(99))
    (tmp_path / "data/1/.hidden.png").write_bytes(picture(98))
    (tmp_path / "data/notes.txt").write_text("no picture")
    source = open_source(tmp_path / "data")
    assert source.ids == sorted(source.ids)
    assert source.ids[3:7] == ["1/001.png", "1/005.png", "1/deep/x.png", "2/002.png"]
    assert source.labels == [name[0] for name in source.ids]
    assert content(source, 5) == picture(99)


def test_a_text_file_names_pictures_from_its_own_folder(tmp_path, monkeypatch):
    class_folders(tmp_path / "data", 4)
    listed = tmp_path / "data/list.txt"
    listed.write_text(f"3/003.png\tcat\r\n\n0/000.png\n{tmp_path}/data/1/001.png\n9/missing.png\n")
    monkeypatch.chdir("/")
    source = open_source(listed)
    assert source.ids == [f"{tmp_path}/data/1/001.png", "0/000.png", "3/003.png", "9/missing.png"]
    assert source.labels == [None, None, "cat", None]
    assert [content(source, row) for row in range(3)] == [picture(1), picture(0), picture(3)]


def test_a_picture_that_is_listed_twice_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(InputError, match=r"has the picture 'a\.png' twice"):
        open_source(tmp_path / "list.txt")


def test_shards_are_read_from_the_middle(tmp_path):
    shard(tmp_path / "s-001.tar", range(5, 9))
    shard(tmp_path / "s-000.tar", range(5), labels=False)
    for data in (tmp_path, tmp_path / "s-{000..001}.tar", [*tmp_path.glob("*.tar")]):
        source = pickle.loads(pickle.dumps(open_source(data)))
        assert source.ids == [f"s-{n > 4:03}.tar/{n:03}" for n in range(9)]
        assert source.labels == [None] * 5 + [str(n % 4) for n in range(5, 9)]
        assert [source.read(row) for row in range(9)] == [picture(n) for n in range(9)]
    assert not source.warnings


def test_shards_that_webdataset_wrote(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as writer:
        for number in range(3):
            sample = {"__key__": f"a/{number}", "jpg": picture(number), "cls": number}
            writer.write({**sample, "seg.png": b"a mask"})
    source = open_source(tmp_path / "s.tar")
    assert source.ids == [f"s.tar/a/{n}" for n in range(3)]
    assert source.labels == ["0", "1", "2"]
    assert source.read(2) == picture(2)


@pytest.mark.parametrize("kept", [600, 1100, 5000])
def test_a_shard_that_is_cut_off_says_so_and_keeps_what_is_whole(tmp_path, kept):
    file = shard(tmp_path / "s.tar", range(6))
    file.write_bytes(file.read_bytes()[:kept])
    source = open_source(file)
    assert "ends in the middle" in source.warnings[0]
    last = len(source.ids) - 1
    for row in range(last):
        assert source.read(row) == picture(row)
    _, start, size = source.places[last]
    if start + size <= kept:
        assert source.read(last) == picture(last)
    else:
        with pytest.raises(InputError, match="the shard ends after"):
            source.read(last)


def test_a_damaged_header_within_a_shard_is_noticed(tmp_path):
    file = shard(tmp_path / "s.tar", range(6))
    content = bytearray(file.read_bytes())
    content[6 * 512 : 6 * 512 + 512] = b"\xff" * 512
    file.write_bytes(bytes(content))
    assert "the next header is damaged" in open_source(file).warnings[0]


def test_rows_of_parquet_are_in_their_order(tmp_path):
    def write(name, numbers, **options):
        images = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers]
        images[1] = None
        columns = {"image": images, "label": [n % 4 for n in numbers], "mask": [b"x"] * len(images)}
        pq.write_table(pa.table(columns), tmp_path / name, **options)

    write("b.parquet", range(20, 25))
    write("a.parquet", range(20), row_group_size=6)
    source = pickle.loads(pickle.dumps(open_source(tmp_path)))
    assert source.ids == sorted(source.ids)
    assert source.ids[19:21] == ["a.parquet/00000019", "b.parquet/00000000"]
    assert source.labels == [str(n % 4) for n in range(25)]
    for row in (24, 0, 7, 19, 20, 5, 6):
        assert source.read(row) == picture(row)
    for row in (1, 21):
        with pytest.raises(InputError, match="the row holds no picture"):
            source.read(row)


def test_the_column_of_pictures_has_to_be_known(tmp_path):
    pq.write_table(pa.table({"a": [b"x"], "b": [b"y"]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"a": [1], "b": ["y"]}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"has several columns of bytes \(a, b\)"):
        open_source(tmp_path / "two.parquet")
    with pytest.raises(InputError, match="has no column of pictures"):
        open_source(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"no tar", "can't be read as a tar file"),
        ("a.parquet", b"no parquet", "can't be read as a Parquet file"),
        ("a.tar.gz", b"", "is compressed"),
        ("a.txt", b"", "there is no picture in"),
        ("a.doc", b"", "of an unknown kind"),
    ],
)
def test_what_is_no_data_is_refused_with_what_can_be_given(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name)


def test_names_that_are_no_utf8_are_escaped(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x\udcff.png").write_bytes(picture(0))
    source = open_source(tmp_path)
    assert source.ids == ["a/x\\xff.png"]
    assert content(source, 0) == picture(0)
