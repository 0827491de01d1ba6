"""An evaluation that is read back is the one that was written."""

import json

import numpy as np
import pytest

import graphprop
from graphprop.errors import InputError
from graphprop.evaluation.moments import Moments
from graphprop.evaluation.occlusion import occlusion
from graphprop.evaluation.saved import read_evaluation
from support.evaluation import channel_network, scenes


@pytest.fixture(scope="module")
def evaluated():
    network, data = channel_network(), scenes(5)
    found = graphprop.evaluate({"linear": network}, data, ["mu", "morf", "gini"])
    return found, occlusion(network, data)


@pytest.fixture
def folder(evaluated, tmp_path):
    found, occluded = evaluated
    found.write(tmp_path)
    (tmp_path / "occlusion.csv").write_text(occluded.as_csv())
    return tmp_path


def test_everything_comes_back(evaluated, folder):
    found, occluded = evaluated
    again, occluded_again = read_evaluation(folder)
    assert again == found
    assert occluded_again == occluded
    (folder / "occlusion.csv").unlink()
    assert read_evaluation(folder)[1] is None


def test_files_without_standard_errors_are_read(evaluated, folder):
    content = json.loads((folder / "evaluation.json").read_text())
    for curve in content["curves"]:
        del curve["error"]
    (folder / "evaluation.json").write_text(json.dumps(content))
    again, _ = read_evaluation(folder)
    assert again.curves == evaluated[0].curves
    assert not again.errors


def test_the_error_of_a_curve_is_that_of_its_mean(evaluated):
    found, _ = evaluated
    network, data = channel_network(), scenes(5)
    singles = [graphprop.evaluate({"n": network}, [case], ["morf"]) for case in data]
    curves = np.array([one.curves["n", "morf"][1] for one in singles])
    expected = curves.std(0, ddof=1) / np.sqrt(len(data))
    assert found.errors["linear", "morf"] == pytest.approx(expected)
    assert not any(singles[0].errors["n", "morf"])


def test_moments_do_not_lose_a_small_deviation_beside_a_large_mean():
    random = np.random.default_rng(0)
    values = 1e9 + random.standard_normal((50, 3))
    moments = Moments.of(3)
    for one in values:
        moments.add(one)
    assert moments.mean == pytest.approx(values.mean(0), rel=1e-15)
    assert moments.error == pytest.approx(values.std(0, ddof=1) / np.sqrt(50), rel=1e-6)


def test_other_folders_are_refused(folder, tmp_path_factory):
    with pytest.raises(InputError, match=r"holds no evaluation\.json: give the folder"):
        read_evaluation(tmp_path_factory.mktemp("empty"))
    content = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**content, "version": 9}))
    with pytest.raises(InputError, match="is of version 9, and this graphprop reads 1"):
        read_evaluation(folder)
    (folder / "evaluation.json").write_text(json.dumps({**content, "curves": [1]}))
    with pytest.raises(InputError, match="can't be read as graphprop writes it"):
        read_evaluation(folder)
    (folder / "evaluation.json").write_text(json.dumps(content))
    (folder / "cases.csv").write_text("case,name\nx,y\n")
    with pytest.raises(InputError, match=r"cases\.csv can't be read"):
        read_evaluation(folder)
