"""The page of a report: what it shows, that names are text, and what is refused."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from PIL import Image

from graphprop.cli import main
from graphprop.drawing.text import printable
from graphprop.errors import InputError, OutputError
from graphprop.reporting import write_report
from support.reports import CLASSES, HOSTILE, compiled_twice, evaluation_in, pictures_in


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two compiled directories, an evaluation and pictures, all with hostile names; the report."""
    folder = tmp_path_factory.mktemp("report")
    directories = compiled_twice(folder)
    evaluation, pictures = evaluation_in(folder), pictures_in(folder, 2)
    output = folder / "report.html"
    written = write_report(output, [*directories, evaluation, *pictures], title=HOSTILE)
    return written, output.read_text(encoding="utf-8"), directories, pictures


class Page(HTMLParser):
    """The elements of a page, their attributes, and all text outside script and style."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self.within = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.within = tag

    def handle_data(self, data):
        if self.within not in ("script", "style"):
            self.text.append(data)


def test_the_policy_allows_the_page_s_own_style_and_script_alone(made):
    _, page, *_ = made
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_loaded_and_no_attribute_is_code(made):
    _, page, *_ = made
    tags = Page(page).found
    names = {name for _, attributes in tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style")}
    links = [attributes["href"] for _, attributes in tags if "href" in attributes]
    assert links
    assert all(re.fullmatch(r"#[\w.-]+", link) for link in links)
    assert not {"img", "link", "iframe", "object", "image"} & {tag for tag, _ in tags}
    assert sum(tag == "script" for tag, _ in tags) == 2
    assert sum(tag == "style" for tag, _ in tags) == 1


def test_every_id_is_that_of_one_element_and_every_reference_has_one(made):
    _, page, *_ = made
    tags = [attributes for _, attributes in Page(page).found]
    ids = [attributes["id"] for attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        assert {a[attribute] for a in tags if attribute in a} <= set(ids)


def test_hostile_names_are_shown_as_text(made):
    written, page, *_ = made
    text = "".join(Page(page).text)
    shown = "<img src=x onerror=alert(1)>{{ 7*7 }}"
    assert text.count(shown) > 10
    assert "\u202e" not in page
    assert "\x00" not in page
    assert any(shown in name for name in written.pictures)


def test_layers_check_ledger_and_evaluation_are_in_the_page(made):
    _, page, directories, _ = made
    text = "".join(Page(page).text)
    for directory in directories:
        manifest = json.loads((directory / "manifest.json").read_text())
        assert directory.name in text
        for layer in manifest["layers"]:
            assert printable(layer["label"]) in text
        for backend in manifest["check"]["backends"]:
            assert backend["name"] in text
        assert f"{manifest['check']['ledger']['start'][0]:.4g}" in text
        assert "What became of 1 batch norm" in text
    assert "0.1235" in text  # a mean of the evaluation
    assert "★" in text


def test_the_script_gets_what_was_computed(made):
    _, page, directories, pictures = made
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    data = json.loads(content[1])
    assert data["methods"] == [directory.name for directory in directories]
    assert [picture["name"] for picture in data["pictures"]] == [
        printable(file.name) for file in pictures
    ]
    assert "\u202e" not in json.dumps(data, ensure_ascii=False)
    assert data["colors"][0][0].startswith("seismic")
    for picture in data["pictures"]:
        for view in picture["views"]:
            assert set(view["maps"]) == {str(number) for number, _ in picture["classes"]}
            for one in view["maps"].values():
                assert one["sum"] == pytest.approx(one["positive"] + one["negative"])


def test_the_same_again_gives_the_same_page(made, tmp_path):
    _, page, directories, pictures = made
    output = tmp_path / "again.html"
    write_report(output, [*directories, *pictures])
    first = output.read_bytes()
    write_report(output, [*directories, *pictures])
    assert output.read_bytes() == first
    assert "Evaluation</h2>" in page
    assert b"Evaluation</h2>" not in first


def test_without_pictures_there_is_no_script(made, tmp_path):
    directories = made[2]
    output = tmp_path / "none.html"
    write_report(output, directories)
    page = output.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "Where relevance goes" in page


def test_an_unchecked_directory_says_so(tmp_path):
    (directory,) = compiled_twice(tmp_path, ["rap"], check=False)
    output = tmp_path / "report.html"
    write_report(output, [directory])
    page = output.read_text(encoding="utf-8")
    assert "Nothing was checked when it was compiled" in page
    assert "not checked" in page


def test_a_directory_of_an_older_graphprop_says_what_is_missing(made, tmp_path):
    (directory,) = compiled_twice(tmp_path, ["rap"])
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["check"]["stages"], manifest["check"]["ledger"]["accounts"]
    path.write_text(json.dumps(manifest))
    output = tmp_path / "report.html"
    write_report(output, [directory])
    text = "".join(Page(output.read_text(encoding="utf-8")).text)
    assert text.count("compile it again") == 2


def test_what_is_no_report_is_not_replaced(made, tmp_path):
    directories = made[2]
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="was not written by graphprop"):
        write_report(mine, directories)
    assert mine.read_text() == "mine"
    with pytest.raises(OutputError, match=r"give -o .*report\.html"):
        write_report(tmp_path / "report.pdf", directories)
    with pytest.raises(OutputError, match="there is no folder"):
        write_report(tmp_path / "none" / "report.html", directories)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_report(tmp_path / "folder.html", directories)


def test_what_cannot_be_read_is_refused_and_nothing_is_written(made, tmp_path):
    directories, pictures = made[2], made[3]
    output = tmp_path / "report.html"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match="classes 0 to 2, and no 7"):
        write_report(output, [*directories, *pictures], targets=[7])
    with pytest.raises(InputError, match=r"broken\.png"):
        write_report(output, [*directories, broken])
    with pytest.raises(InputError, match="compiled directories"):
        write_report(output, pictures)
    assert not output.exists()


def test_the_command_prints_what_it_wrote(made, tmp_path):
    directories, pictures = made[2], made[3]
    output = tmp_path / "report.html"
    arguments = [*map(str, (*directories, pictures[0])), "-o", str(output), "--json"]
    result = CliRunner().invoke(main, ["report", *arguments, "--target", "1"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["file"] == str(output)
    assert content["size"] == output.stat().st_size
    assert content["directories"] == [directory.name for directory in directories]


@pytest.mark.slow
def test_ten_photographs_fit_into_five_megabytes(tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    directories = compiled_twice(tmp_path, size=224)
    files = []
    for place in range(10):  # noise is what compresses worst
        noise = Image.effect_noise((640, 480), 90 + place).convert("RGB")
        files.append(folder / f"{place}.png")
        noise.save(files[-1])
    output = tmp_path / "report.html"
    written = write_report(output, [*directories, *files])
    assert written.size == output.stat().st_size < 5_000_000


def test_every_class_has_its_name(made):
    text = "".join(Page(made[1]).text)
    assert all(f"{place}: {name}" in text for place, name in enumerate(CLASSES[1:], 1))
