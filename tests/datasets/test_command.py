"""`graphprop explain` of a data set, and `graphprop summary`."""

import json

import pytest
from click.testing import CliRunner

from graphprop.cli import main
from support.datasets import class_folders, explainer_in, picture


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    explainer_in(folder / "ex", "epsilon_plus_flat")
    class_folders(folder / "data", 120, broken=(5,))
    return folder


@pytest.fixture
def graphprop(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        done = CliRunner().invoke(main, [str(one) for one in arguments])
        assert done.exit_code == code, done.output
        return done

    return run


def test_more_than_a_hundred_pictures_go_to_a_store(graphprop, place, tmp_path):
    done = graphprop("explain", place / "ex", place / "data", code=3)
    assert "explanations.zarr: 120 pictures, 1 failed: explanations.zarr.failures" in done.stdout
    assert "warning: 1/005.png can't be read as a picture" in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {
        "explanations.zarr", "explanations.zarr.failures.parquet"
    }  # fmt: skip


def test_a_few_pictures_and_a_folder_that_is_named_are_drawn_as_ever(graphprop, place, tmp_path):
    few = class_folders(tmp_path / "few", 3)
    graphprop("explain", place / "ex", few)
    assert (tmp_path / "explanations/002.png").exists()
    graphprop("explain", place / "ex", few, "-o", "maps")
    assert (tmp_path / "maps/002.png").exists()


@pytest.mark.parametrize("option", [["--limit", 4], ["--batch-size", 2], ["--target", "label"]])
def test_an_option_of_data_sets_makes_it_one(graphprop, place, option):
    done = graphprop("explain", place / "ex", place / "data", *option, "--json", "-o", "maps",
                     code=0 if "--limit" in option else 3)  # fmt: skip
    found = json.loads(done.stdout)["dataset"]
    assert found["output"] == "maps"
    assert found["pictures"] == (4 if "--limit" in option else 120)


def test_a_list_is_explained_and_summed_up(graphprop, place, tmp_path):
    lines = [f"{n % 4}/{n:03}.png\t{n % 4}" for n in range(10, 20)]
    (place / "data/list.txt").write_text("\n".join(lines))
    graphprop("explain", place / "data/list.txt", place / "ex", "-o", "a.h5", "--resume")
    done = graphprop("summary", "a.h5")
    assert "a.h5: epsilon_plus_flat, 10 pictures, 0 failed" in done.stdout
    assert "share of the logit that is swallowed" in done.stdout
    assert (tmp_path / "a.h5.summary.png").exists()
    content = json.loads(graphprop("summary", "a.h5", "--no-plots", "--json").stdout)
    assert (content["pictures"], content["drawing"]) == (10, None)
    assert "nothing was left" in graphprop(
        "explain", place / "data/list.txt", place / "ex", "-o", "a.h5", "--resume"
    ).stdout  # fmt: skip


def test_what_does_not_go_together(graphprop, place, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    done = graphprop("explain", place / "ex", "a.png", "--target", "dog", code=2)
    assert "there is no class 'dog'" in done.stderr
    done = graphprop(
        "explain", place / "ex", place / "data", "--limit", 3, "--shared-scale", code=2
    )
    assert "--shared-scale is for some pictures, not for a data set" in done.stderr
    for option in (["--format", "svg"], ["--alpha", 0], ["--mean", 0], ["--names", "names.txt"]):
        done = graphprop("explain", place / "ex", place / "data", "--limit", 3, *option, code=2)
        assert f"{option[0]} is for some pictures, not for a data set" in done.stderr
    done = graphprop("explain", place / "ex", place / "ex", "a.png", "--limit", 3, code=2)
    assert "is explained by one compiled directory" in done.stderr
    done = graphprop("explain", place / "ex", "missing.tar", "-o", "a.zarr", code=2)
    assert "there is no data missing.tar" in done.stderr
