"""``graphprop inspect``: the drawings that it writes, and what it refuses to write to."""

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from graphprop.cli import commands, main
from support.sources import NET


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def inspect(*arguments):
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_it_draws_the_network(net, tmp_path):
    svg, html = tmp_path / "net.svg", tmp_path / "net.html"
    done = inspect(net, "--svg", svg, "--html", html, "--method", "rap")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"drawn: {svg}\ndrawn: {html}\n")
    root = ElementTree.parse(svg).getroot()
    assert root.find("{*}title").text == "net, rap: the network's layers"
    assert "<title>net, rap</title>" in html.read_text()
    first = svg.read_bytes()
    again = inspect(net, "--svg", svg, "--method", "rap", "--json")  # what lies there is replaced
    assert json.loads(again.stdout)["svg"] == str(svg)
    assert json.loads(again.stdout)["html"] is None
    assert svg.read_bytes() == first


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--svg", "", "--svg names a file, and {path} is a folder"),
        ("--html", "no/where.html", "--html {path}: there is no folder {path.parent}"),
        ("--svg", "net.py", "--svg would replace {path}, which is read: name another file"),
    ],
)
def test_what_can_not_be_written_is_refused_at_once(net, tmp_path, monkeypatch, option, name, said):
    monkeypatch.setattr(commands, "load_source", lambda *a, **k: pytest.fail("too late"))
    path = tmp_path / name if name else tmp_path
    done = inspect(net, option, path)
    assert done.exit_code == 2
    assert done.stderr == f"error: {said.format(path=path)}\n"
    assert net.read_text() == NET


def test_two_drawings_need_two_files(net, tmp_path):
    done = inspect(net, "--svg", tmp_path / "a", "--html", tmp_path / "a")
    assert done.exit_code == 2
    assert done.stderr == "error: --svg and --html name the same file: give each its own\n"
