"""What is made of a store: HDF5 that other programs read, and a summary."""

import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import graphprop
from graphprop.datasets import plan
from graphprop.datasets.store import Store
from graphprop.errors import OutputError
from support.datasets import class_folders, explainer_in

READERS = os.environ.get("GRAPHPROP_READERS", "/tmp/virelay-venv/bin/python")
"""A Python that has ViRelAy and CoRelAy: they ask for older versions than those that are tested."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    explainer_in(folder / "ex", "epsilon_plus_flat")
    class_folders(folder / "data", 40, broken=(5, 22))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MOST_ROWS", 8)
        for name, options in {
            "a.zarr": {},
            "a.h5": {},
            "label.h5": {"target": "label"},
            "half.h5": {"dtype": "float16", "reduce": "channels"},
            "top.zarr": {"target": "top:2", "dtype": "float16"},
        }.items():
            graphprop.explain_dataset(folder / "ex", folder / "data", folder / name, **options)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 4)
        )
        colored = graphprop.compile(network.eval(), torch.zeros(2, 3, 6, 6))
        colored.save(folder / "colored", onnx=False, check=False)
        graphprop.explain_dataset(folder / "colored", folder / "data", folder / "rgb.h5")
    return folder


def test_hdf5_holds_the_pictures_that_did_not_fail(place):
    store = Store(place / "a.zarr")
    rows = np.flatnonzero(store.column("target") >= 0)
    with h5py.File(place / "a.h5") as file:
        assert file["attribution"].shape == (38, 1, 6, 6)
        np.testing.assert_array_equal(file["attribution"][:], store.column("relevance")[rows])
        np.testing.assert_array_equal(file["prediction"][:], store.column("logits")[rows])
        np.testing.assert_array_equal(file["index"][:], rows)
        np.testing.assert_array_equal(file["label"][:], store.column("label")[rows])
        assert file["id"].asstr()[:].tolist() == store.column("id")[rows].tolist()
        assert json.loads(file["graphprop"].asstr()[()])["run"]["pictures"] == 40
    with h5py.File(place / "half.h5") as file:
        assert file["attribution"].shape == (38, 1, 6, 6)
        maps = store.column("relevance")[rows]
        np.testing.assert_allclose(file["attribution"][:], maps, rtol=2**-11, atol=1e-9)


def test_hdf5_is_the_same_to_the_byte(place, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MOST_ROWS", 8)
        graphprop.explain_dataset(place / "ex", place / "data", tmp_path / "a.h5", workers=3)
    assert (tmp_path / "a.h5").read_bytes() == (place / "a.h5").read_bytes()


READ = """
import json, sys
import h5py, numpy as np
from corelay.processor.clustering import KMeans
from corelay.processor.embedding import EigenDecomposition
from corelay.processor.flow import Sequential
from corelay.pipeline.spectral import SpectralClustering
from corelay.processor.base import Processor
from virelay.model import AttributionDatabase, LabelMap

path, labels = sys.argv[1:]
with h5py.File(path) as file:
    maps, label, index = file["attribution"][:], file["label"][:], file["index"][:]
pipeline = SpectralClustering(
    embedding=EigenDecomposition(n_eigval=4, is_output=True),
    clustering=KMeans(n_clusters=3, is_output=True),
)
(values, vectors), clusters = pipeline(maps.reshape(len(maps), -1))
database = AttributionDatabase(path, LabelMap(labels))
one = database.get_attribution(int(index[7]))
# of one channel it leaves the axis of channels, and fails
image = one.render_heatmap("blue-white-red") if maps.shape[1] == 3 else np.zeros((6, 6, 3))
print(json.dumps({
    "clusters": np.asarray(clusters).tolist(),
    "vectors": list(np.asarray(vectors).shape),
    "has": [database.has_attribution(int(n)) for n in (int(index[7]), 5000)],
    "label": str(getattr(one.labels, "name", one.labels)),
    "same": bool((np.moveaxis(one.data, -1, 0) == maps[7]).all()),
    "image": image.shape,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rgb.h5"])
def test_corelay_clusters_it_and_virelay_opens_it(place, tmp_path, name):
    test = [READERS, "-c", "import corelay, virelay"]
    if not Path(READERS).exists() or subprocess.run(test, check=False).returncode:
        pytest.skip("ViRelAy and CoRelAy are not installed; GRAPHPROP_READERS names their Python")
    labels = [{"index": n, "word_net_id": f"n{n}", "name": f"class {n}"} for n in range(4)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    command = [READERS, "-c", READ, str(place / name), str(tmp_path / "labels.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["clusters"]) == 38
    assert set(found["clusters"]) == {0, 1, 2}
    assert found["vectors"][0] == 38
    assert found["has"] == [True, False]
    assert found["same"]
    assert found["image"] == [6, 6, 3]
    assert "class" in found["label"]


# Summary


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "half.h5", "top.zarr"])
def test_a_summary_is_what_the_arrays_say(place, tmp_path, name):
    found = graphprop.summarize(place / name)
    store = Store(place / ("top.zarr" if name == "top.zarr" else "a.zarr"))
    targets = store.column("target").reshape(40, -1)
    sums = store.column("relevance_sum").reshape(40, -1)
    negative = store.column("relevance_negative").reshape(40, -1)
    kept = targets >= 0
    assert (found.pictures, found.failed, found.not_finite) == (40, 2, 0)
    assert sum(one.pictures for one in found.classes) == kept.sum()
    maps = Store(place / "top.zarr" if name == "top.zarr" else place / "a.zarr")
    values = np.concatenate([part for _, part in maps.chunks()]).reshape(40, -1, 1, 6, 6)
    for one in found.classes:
        chosen = targets == one.target
        assert one.relevance_sum == pytest.approx(sums[chosen].mean())
        mean = values[chosen].astype(np.float64).sum(1).mean(0)
        np.testing.assert_allclose(one.mean_map, mean, rtol=1e-3, atol=1e-7)
    assert found.sums[0.5] == pytest.approx(np.median(sums[kept]))
    logits = np.take_along_axis(store.column("logits"), np.maximum(targets, 0), 1)
    shares = 1 - sums[kept] / logits[kept].astype(np.float64)
    assert found.swallowed[0.5] == pytest.approx(np.median(shares))
    least = [value for _, _, value in found.negative]
    assert least == sorted(negative[kept].tolist())[:10]
    found.draw(tmp_path / "a.png")
    found.draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_summary_of_what_is_no_store(place, tmp_path):
    with pytest.raises(OutputError, match="`graphprop explain` writes one"):
        graphprop.summarize(tmp_path / "none.zarr")
    (tmp_path / "begun.zarr.partial").mkdir()
    with pytest.raises(OutputError, match="is not complete: go on with it by"):
        graphprop.summarize(tmp_path / "begun.zarr")
    (tmp_path / "text.h5").write_text("no store")
    with pytest.raises(OutputError, match="was not written by graphprop"):
        graphprop.summarize(tmp_path / "text.h5")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(OutputError, match="can't be read as a Zarr store"):
        graphprop.summarize(tmp_path / "folder.zarr")
    with pytest.raises(OutputError, match="a drawing is a"):
        graphprop.summarize(place / "a.zarr").draw(tmp_path / "a.txt")
