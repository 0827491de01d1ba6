"""The golden files say what the compiler makes of a few small models; see ``tools/golden.py``."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

TOOL = Path(__file__).parent.parent / "tools" / "golden.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("golden", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = load_tool()


@pytest.fixture(scope="module", params=golden.MODELS)
def texts(request):
    return request.param, golden.texts_of(request.param)


def test_the_compiler_makes_what_the_golden_files_say(texts):
    model, wanted = texts
    diffs = {
        name: diff
        for name, diff in golden.differences(wanted).items()
        if name.split(".")[0] == model
    }
    if diffs:
        # without a traceback: the difference is the message
        pytest.fail(
            f"{len(diffs)} golden files differ from what is compiled now. If that is meant, "
            f"refresh them with `{golden.REFRESH}` and read the diff.\n\n"
            + "\n\n".join(diffs.values()),
            pytrace=False,
        )


def test_no_golden_file_is_left_over():
    stems = {f"{model}.{m}" for model in golden.MODELS for m in golden.methods_of(model)}
    names = [path.name for path in golden.FOLDER.iterdir()]
    left = [name for name in names if ".".join(name.split(".")[:2]) not in stems]
    assert not left, f"refresh with `{golden.REFRESH}`: {left}"


def test_compiling_twice_gives_the_same_text(texts):
    model, first = texts
    assert golden.texts_of(model) == first


def test_a_difference_is_shown_as_a_diff_and_refreshed(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "old.txt").write_text("gone\n")
    wanted = {"a.txt": "one\nthree\n", "new.txt": "fresh\n"}
    diffs = golden.differences(wanted, tmp_path)
    assert sorted(diffs) == ["a.txt", "new.txt", "old.txt"]
    assert diffs["a.txt"].splitlines() == [
        "--- golden/a.txt",
        "+++ compiled now",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+three",
    ]
    assert golden.refresh(wanted, tmp_path) == ["a.txt", "new.txt", "old.txt"]
    assert golden.differences(wanted, tmp_path) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "new.txt"]
