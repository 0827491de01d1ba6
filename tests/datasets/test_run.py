"""Explaining a data set: rows are what the explainer computes, and nothing else decides on that."""

import csv
import fcntl
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

import graphprop
from graphprop.artifact.engines import load_explainer
from graphprop.artifact.manifest import read_manifest
from graphprop.datasets import plan, run
from graphprop.datasets.decode import Decoder
from graphprop.datasets.layout import unpacked
from graphprop.datasets.sources import open_source
from graphprop.datasets.store import Store, Writer
from graphprop.errors import GraphpropError, InputError, MethodError, OutputError
from support.datasets import BROKEN, class_folders, contents, explainer_in, picture, shard


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an explainer, ``ex``, and pictures, ``data``, of which 5 is broken."""
    folder = tmp_path_factory.mktemp("place")
    explainer_in(folder / "ex")
    class_folders(folder / "data", 24, broken=(5,))
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(plan, "MOST_ROWS", 8)


def explained(place, output, **options):
    options = {"batch_size": 3, **options}
    return graphprop.explain_dataset(place / "ex", place / "data", output, **options)


def inputs(place):
    """The ids, and the inputs of those pictures that can be read."""
    source = open_source(place / "data")
    decoder = Decoder(source, read_manifest(place / "ex"))
    return source.ids, [decoder(row).x for row in range(len(source.ids))]


def test_rows_are_what_the_explainer_computes_of_the_picture(place, tmp_path):
    told = []
    found = explained(place, tmp_path / "a.zarr", progress=lambda *three: told.append(three))
    ids, xs = inputs(place)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group["id"][:].tolist() == ids == sorted(ids)
    module = load_explainer(place / "ex")
    for row, x in enumerate(xs):
        if x is None:
            continue
        with torch.no_grad():
            logits, relevance = module(x[None])
        torch.testing.assert_close(torch.tensor(group["logits"][row]), logits[0])
        torch.testing.assert_close(torch.tensor(group["relevance"][row]), relevance[0])
        assert group["target"][row] == logits.argmax()
        assert group["label"][row] == int(ids[row][0])
        assert group["relevance_sum"][row] == pytest.approx(float(relevance.double().sum()))
    assert (told[0], told[-1]) == ((0, 24, 0), (24, 24, 1))
    assert (found.count, found.computed, found.batch_size) == (24, 24, 3)


def test_a_picture_that_fails_keeps_its_row_and_is_listed_with_the_reason(place, tmp_path):
    found = explained(place, tmp_path / "a.zarr")
    assert list(found.failures) == ["1/005.png"]
    table = pq.read_table(tmp_path / "a.zarr.failures.parquet").to_pylist()
    assert [row["id"] for row in table] == ["1/005.png"]
    assert table[0]["reason"].startswith("1/005.png can't be read as a picture")
    store = Store(tmp_path / "a.zarr")
    row = store.column("id").tolist().index("1/005.png")
    assert store.column("target")[row] == -1
    for name in ("relevance", "logits", "relevance_sum", "relevance_negative"):
        values = store.column(name)
        assert np.isnan(values[row]).all()
        assert np.isfinite(np.delete(values, row, axis=0)).all()


@pytest.mark.parametrize("reason", ["missing", "empty", "cut off", "folder", "too large"])
def test_whatever_is_wrong_with_one_picture_the_others_are_explained(place, tmp_path, reason):
    data = class_folders(tmp_path / "data", 6)
    file = data / "1/001.png"
    names = [f"{n % 4}/{n:03}.png" for n in range(6)]
    (data / "list.txt").write_text("\n".join(names))
    file.unlink()
    if reason == "folder":
        file.mkdir()
    elif reason != "missing":
        whole = picture(1)
        huge = whole[:16] + (10**6).to_bytes(4, "big") * 2 + whole[24:]
        file.write_bytes({"empty": b"", "cut off": whole[:50], "too large": huge}[reason])
    found = graphprop.explain_dataset(place / "ex", data / "list.txt", tmp_path / "a.zarr")
    assert list(found.failures) == ["1/001.png"]
    assert str(tmp_path) not in found.failures["1/001.png"]
    assert np.isfinite(Store(tmp_path / "a.zarr").column("relevance_sum")).sum() == 5


def test_a_neighbor_that_fails_changes_no_bit(place, tmp_path):
    whole, broken = (class_folders(tmp_path / name, 12) for name in ("whole", "broken"))
    for number in (0, 4, 7):
        (broken / str(number % 4) / f"{number:03}.png").write_bytes(BROKEN)
    stores = []
    for data in (whole, broken):
        output = tmp_path / f"{data.name}.zarr"
        graphprop.explain_dataset(place / "ex", data, output, batch_size=4)
        stores.append(Store(output))
    rows = stores[1].column("target") >= 0
    assert rows.sum() == 9
    for name in ("relevance", "logits", "target"):
        one, other = (store.column(name)[rows] for store in stores)
        assert one.tobytes() == other.tobytes()


def test_a_store_is_the_same_to_the_byte_whoever_reads_and_from_wherever(place, tmp_path):
    explained(place, tmp_path / "a.zarr", workers=1)
    (tmp_path / "copy").symlink_to(place / "data")
    moved = tmp_path / "copy"
    graphprop.explain_dataset(place / "ex", moved, tmp_path / "b.zarr", batch_size=3, workers=7)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    one, other = (tmp_path / f"{name}.zarr.failures.parquet" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_shards_and_tables_hold_the_same_maps_as_a_folder(place, tmp_path):
    import pyarrow as pa

    shard(tmp_path / "s.tar", range(8))
    rows = {"image": [picture(n) for n in range(8)], "label": [n % 4 for n in range(8)]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    (tmp_path / "f").mkdir()
    for number in range(8):
        (tmp_path / f"f/{number}.png").write_bytes(picture(number))
    found = {}
    for data in ("s.tar", "t.parquet", "f"):
        output = tmp_path / f"{data}.zarr"
        graphprop.explain_dataset(place / "ex", tmp_path / data, output, batch_size=4)
        found[data] = Store(output)
    for name in ("relevance", "logits"):
        assert len({store.column(name).tobytes() for store in found.values()}) == 1
    for data in ("s.tar", "t.parquet"):
        assert found[data].column("label").tolist() == [n % 4 for n in range(8)]
    assert "label" not in found["f"]


def test_both_backends_explain_the_same(place, tmp_path):
    stores = []
    for backend in ("python", "onnxruntime"):
        explained(place, tmp_path / f"{backend}.zarr", backend=backend)
        stores.append(Store(tmp_path / f"{backend}.zarr"))
    one, other = stores
    np.testing.assert_array_equal(one.column("target"), other.column("target"))
    np.testing.assert_allclose(one.column("logits"), other.column("logits"), rtol=1e-4, atol=1e-5)
    maps = [store.column("relevance") for store in stores]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-5)


# What is explained


def target_of(place, tmp_path, target):
    output = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
    found = explained(place, output, target=target)
    store = Store(output)
    return store, store.column("target"), np.array(list(found.failures))


def test_targets(place, tmp_path):
    store, largest, _ = target_of(place, tmp_path, None)
    ids, kept = store.column("id"), store.column("target") >= 0
    logits = store.column("logits")
    assert (largest[kept] == logits[kept].argmax(1)).all()
    assert (target_of(place, tmp_path, 2)[1][kept] == 2).all()
    assert (target_of(place, tmp_path, "label")[1][kept] == [int(n[0]) for n in ids[kept]]).all()
    top, classes, _ = target_of(place, tmp_path, "top:3")
    order = np.argsort(-logits[kept], axis=1, kind="stable")[:, :3]
    assert (classes[kept] == order).all()
    assert top["relevance"].shape == (24, 3, 1, 6, 6)
    two = target_of(place, tmp_path, 2)[0].column("relevance")
    rows, places = np.nonzero(classes == 2)
    np.testing.assert_allclose(
        top.column("relevance")[rows, places], two[rows], rtol=1e-4, atol=1e-6
    )
    with (tmp_path / "targets.csv").open("w") as file:
        csv.writer(file).writerows([name, 3 - int(name[0])] for name in ids)
    (tmp_path / "targets.json").write_text(json.dumps({name: 3 - int(name[0]) for name in ids}))
    wanted = [3 - int(name[0]) for name in ids[kept]]
    for kind in ("csv", "json"):
        assert (target_of(place, tmp_path, tmp_path / f"targets.{kind}")[1][kept] == wanted).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "must be a class from 0 to 3"),
        ("dog", "must be a class from 0 to 3"),
        ("top:5", "must be from top:1 to top:4"),
        ("some.csv", "can't be read"),
    ],
)
def test_targets_that_cannot_be_are_refused(place, tmp_path, target, message):
    with pytest.raises(InputError, match=message):
        explained(place, tmp_path / "a.zarr", target=target)
    assert not list(tmp_path.iterdir())


def test_labels_need_classes_that_the_network_has(place, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(picture(0))
    with pytest.raises(InputError, match="which of the network's 4 classes 'cat' is, isn't known"):
        graphprop.explain_dataset(
            place / "ex", tmp_path / "data", tmp_path / "a.zarr", target="label"
        )
    explainer_in(tmp_path / "named")
    manifest = json.loads((tmp_path / "named/manifest.json").read_text())
    manifest["class_names"] = ["bird", "dog", "cat", "fish"]
    (tmp_path / "named/manifest.json").write_text(json.dumps(manifest))
    graphprop.explain_dataset(
        tmp_path / "named", tmp_path / "data", tmp_path / "a.zarr", target="label"
    )
    assert Store(tmp_path / "a.zarr").column("target").tolist() == [2, 1]


def test_what_is_stored_can_be_smaller(place, tmp_path):
    explained(place, tmp_path / "a.zarr")
    explained(place, tmp_path / "b.zarr", dtype="float16", reduce="channels")
    whole, small = (Store(tmp_path / f"{name}.zarr") for name in "ab")
    assert small["relevance"].dtype == np.float16
    kept = whole.column("target") >= 0
    summed = whole.column("relevance")[kept].astype(np.float64).sum(1)
    back = unpacked(small.column("relevance"), small.column("scale"))[kept]
    np.testing.assert_allclose(back, summed, rtol=2**-11, atol=1e-9)
    assert (small.column("relevance_sum")[kept] == whole.column("relevance_sum")[kept]).all()


# Going on, and refusing to


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    explained(place, tmp_path / "whole.zarr")
    output, write, written = tmp_path / "a.zarr", Writer.write, []

    def stopping(writer, number, arrays):
        if number == 1:
            raise KeyboardInterrupt
        write(writer, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            explained(place, output)
    assert not output.exists()
    with pytest.raises(OutputError, match="holds a run that was stopped: go on with it by"):
        explained(place, output)

    def noting(writer, number, arrays):
        written.append(number)
        write(writer, number, arrays)

    monkeypatch.setattr(Writer, "write", noting)
    found = explained(place, output, resume=True, batch_size=None)
    assert written == [1, 2]
    assert found.computed == 16
    assert contents(output) == contents(tmp_path / "whole.zarr")
    assert explained(place, output, resume=True).computed == 0
    with pytest.raises(OutputError, match="exists: name another output"):
        explained(place, output)


def begun(place, output, monkeypatch, **options):
    """Begin a run, and stop it at its first chunk."""

    def stopping(writer, number, arrays):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            explained(place, output, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, r"another dtype \(float32 then, float16 now\)"),
        ({"target": 1}, r"another target \(largest logit then, 1 now\)"),
        ({"reduce": "channels"}, r"another reduce \(None then, channels now\)"),
        ({"backend": "onnxruntime"}, r"another backend \(python then, onnxruntime now\)"),
        ({"limit": 20}, r"another list of pictures \(24 then, 20 now\)"),
        ({"batch_size": 4}, "with batches of 3, and others give other bits"),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_another_run_is_not_gone_on_with(place, tmp_path, monkeypatch, options, message, complete):
    output = tmp_path / "a.zarr"
    if complete:
        explained(place, output)
    else:
        begun(place, output, monkeypatch)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=message):
        explained(place, output, resume=True, **options)
    assert contents(tmp_path).keys() == before.keys()


def test_another_explainer_is_not_gone_on_with(place, tmp_path, monkeypatch):
    begun(place, tmp_path / "a.zarr", monkeypatch)
    explainer_in(tmp_path / "ex", "epsilon_plus_flat")
    with pytest.raises(OutputError, match=r"another explainer \(explainer.onnx, explainer.py, man"):
        graphprop.explain_dataset(tmp_path / "ex", place / "data", tmp_path / "a.zarr", resume=True)


def test_other_versions_are_a_warning(place, tmp_path, monkeypatch):
    begun(place, tmp_path / "a.zarr", monkeypatch)
    monkeypatch.setattr(run, "version", lambda name: "0.0")
    *_, warning = explained(place, tmp_path / "a.zarr", resume=True).warnings
    assert "begun with other versions" in warning


def test_threads_are_those_that_it_was_begun_with(place, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    begun(place, tmp_path / "a.zarr", monkeypatch)
    real = run.Explaining.__call__

    def noting(explaining, x, targets):
        seen.append(explaining.threads)
        return real(explaining, x, targets)

    monkeypatch.setattr(run.Explaining, "__call__", noting)
    torch.set_num_threads(before + 1)
    try:
        explained(place, tmp_path / "a.zarr", resume=True)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before}


def test_two_runs_into_one_store_refuse_each_other(place, tmp_path, monkeypatch):
    output, write = tmp_path / "a.zarr", Writer.write
    messages = []

    def beside(writer, number, arrays):
        for options in ({}, {"resume": True}):
            with pytest.raises(OutputError) as caught:
                explained(place, output, **options)
            messages.append(str(caught.value))
        write(writer, number, arrays)

    monkeypatch.setattr(Writer, "write", beside)
    explained(place, output)
    assert len(messages) == 6
    assert all(f"is being written by process {os.getpid()} on " in text for text in messages)


def test_a_lock_of_a_process_that_died_is_none(place, tmp_path):
    partial = tmp_path / "a.zarr.partial"
    partial.mkdir()
    (partial / "lock").write_text("process 1 on elsewhere")
    explained(place, tmp_path / "a.zarr")
    assert not partial.exists()


def test_a_lock_is_that_of_whoever_holds_the_file_and_not_what_stands_in_it(place, tmp_path):
    partial = tmp_path / "a.zarr.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is being written by another run"):
            explained(place, tmp_path / "a.zarr", resume=True)
    explained(place, tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, MethodError, "there is no dtype 'int8'"),
        ({"reduce": "places"}, MethodError, "there is no reduction 'places'"),
        ({"backend": "tvm"}, MethodError, "there is no backend 'tvm'"),
        ({"device": "tpu"}, MethodError, "there is no device 'tpu'"),
        ({"device": "tpu", "backend": "onnxruntime"}, MethodError, "there is no device 'tpu'"),
        ({"batch_size": 0}, InputError, "batch_size must be 1 or more"),
    ],
)
def test_options_that_cannot_be_leave_nothing_behind(place, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        explained(place, tmp_path / "a.zarr", **options)
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be(place, tmp_path):
    with pytest.raises(OutputError, match=r"go to a \.zarr, an \.h5 or a folder"):
        explained(place, tmp_path / "a.npy")
    with pytest.raises(InputError, match="holds one map of each picture"):
        explained(place, tmp_path / "a.h5", target="top:2")
    with pytest.raises(InputError, match="holds one map of each picture"):
        explained(place, tmp_path / "folder", reduce="channels")
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphpropError, match="can't be written"):
        explained(place, tmp_path / "file/a.zarr")


def test_the_store_says_where_it_comes_from(place, tmp_path):
    explained(place, tmp_path / "a.zarr")
    found = Store(tmp_path / "a.zarr").attributes
    assert found["run"]["explainer"].keys() >= {"explainer.py", "weights.safetensors"}
    assert found["manifest"]["method"] == found["method"] == "rap"
    assert found["computing"] == {
        "batch_size": 3, "chunk": 8, "threads": torch.get_num_threads()
    }  # fmt: skip
    assert found["versions"].keys() >= {"torch", "graphprop", "cpu"}
    assert str(tmp_path) not in json.dumps(found)
    assert str(place) not in json.dumps(found)


# Other kinds of output


def test_a_folder_has_arrays_and_a_drawing_of_each_picture(place, tmp_path):
    found = explained(place, tmp_path / "maps")
    explained(place, tmp_path / "a.zarr")
    store = Store(tmp_path / "a.zarr")
    files = sorted(str(f.relative_to(tmp_path / "maps")) for f in (tmp_path / "maps").rglob("*.*"))
    assert files[:2] == ["0/000.npz", "0/000.png"]
    assert len(files) == 2 * 23 + 2
    assert found.failures_file == tmp_path / "maps/failures.parquet"
    with np.load(tmp_path / "maps/0/004.npz") as arrays:
        np.testing.assert_array_equal(arrays["relevance"], store["relevance"][1])
        assert arrays["target"] == store["target"][1]
    assert explained(place, tmp_path / "maps", resume=True).failures == found.failures


def test_the_iterator_gives_the_rows_of_the_store(place, tmp_path):
    explained(place, tmp_path / "a.zarr")
    store, failed = Store(tmp_path / "a.zarr"), []
    given = graphprop.iterate_explanations(
        place / "ex", place / "data", batch_size=3, failed=lambda *two: failed.append(two[0])
    )
    ids = store.column("id").tolist()
    seen = []
    for name, logits, relevance in given:
        row = ids.index(name)
        seen.append(name)
        np.testing.assert_allclose(logits, store["logits"][row], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(relevance, store["relevance"][row], rtol=1e-4, atol=1e-6)
    assert failed == ["1/005.png"]
    assert seen == [name for name in ids if name not in failed]
    with pytest.raises(InputError, match=r"'1/005\.png' can't be explained"):
        list(graphprop.iterate_explanations(place / "ex", place / "data"))
