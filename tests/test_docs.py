"""The documentation agrees with the code: names, options, fields, samples and messages."""

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from torch import nn

import graphprop
from graphprop import builtin
from graphprop.cli import main
from graphprop.errors import GraphpropError
from graphprop.ops.base import ATEN
from graphprop.rules import METHODS, RULES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def own(registry, names):
    """The entries of the package itself: other tests of the process may have added theirs."""
    return [(name, registry[name]) for name in names]


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def in_code(name: str) -> set[str]:
    """What a page has between single backticks."""
    return set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text_of(name)))


def sections(text: str, kind: str) -> dict[str, str]:
    """Name in a heading such as ``Methods `a` and `b` `` -> the section's text."""
    pieces = re.split(r"^(#{2,4} .*)$", text, flags=re.MULTILINE)
    found = {}
    for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
        title = heading.lstrip("# ").partition("{")[0]
        if re.match(rf"{kind}s? `", title):
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", title), body)
    return found


def shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_of(section: str) -> dict[str, set[str]]:
    """Parameter -> the defaults in its row."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, flags=re.MULTILINE)
    return {name: set(re.findall(r"`([^`]+)`", defaults)) for name, defaults in rows}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """What samples register is forgotten afterwards."""
    tables = (METHODS, RULES, ATEN)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


# The mathematics


@pytest.mark.parametrize("kind", ["Method", "Rule"])
def test_every_method_and_rule_has_a_section_with_its_parameters_and_defaults(kind):
    documented = sections(text_of("methods.md"), kind)
    known = {name: method.defaults for name, method in own(METHODS, builtin.METHODS)}
    if kind == "Rule":
        known = {name: rule.parameters for name, rule in own(RULES, builtin.RULES)}
    assert documented.keys() == known.keys()
    for name, parameters in known.items():
        table = table_of(documented[name])
        assert table.keys() == parameters.keys(), name
        for parameter, default in parameters.items():
            assert shown(default) in table[parameter], (name, parameter)
        assert "Cost:" in documented[name], name
        assert "Conserves" in documented[name] or "**Laws.**" in documented[name], name


def operations_of(rule: str, activation: nn.Module) -> int:
    """How many convolutions a rule adds at a hidden layer: those of the source, less the others."""
    # adjoints to four channels or fewer would be computed together
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), activation, nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    rules = {"0": "epsilon", "2": rule}
    explainer = graphprop.compile(model.eval(), torch.zeros(1, 2, 8, 8), "lrp_z", rules=rules)
    forward = explainer.source[explainer.source.index("    def forward(") :]
    return len(re.findall(r"F\.conv\w*2d\(", forward)) - 3  # two forward, one of layer "0"


@pytest.mark.parametrize("rule", ["z", "alpha_beta", "z_plus", "flat", "rap"])
def test_the_cost_of_a_rule_is_what_its_source_holds(rule):
    section = sections(text_of("methods.md"), "Rule")[rule]
    above, mixed = map(int, re.search(r"Cost: (\d) / (\d)", section).groups())
    assert operations_of(rule, nn.ReLU()) == above
    if mixed != above:
        assert operations_of(rule, nn.LeakyReLU()) == mixed


def test_every_parameter_has_a_meaning():
    text = text_of("methods.md")
    glossary = text[text.index("### Parameters") : text.index("## 1.")]
    explained = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]*)\|", glossary, re.M))))
    every = {name for _, method in own(METHODS, builtin.METHODS) for name in method.defaults}
    every |= {name for _, rule in own(RULES, builtin.RULES) for name in rule.parameters}
    assert every <= explained


def test_the_sections_that_the_code_cites_exist():
    numbers = set(re.findall(r"^## (\d)\. ", text_of("methods.md"), flags=re.MULTILINE))
    cited = set()
    for path in [*(ROOT / "graphprop").rglob("*.py"), *(ROOT / "tests").glob("*.py")]:
        source = " ".join(path.read_text(encoding="utf-8").split())
        for one, last in re.findall(
            r"methods\.md,? (?:sections? )?(\d)(?:(?: and| to|,) (\d))?", source
        ):
            cited |= {one, last} - {""}
    assert cited
    assert cited <= numbers


# The command line


def options() -> Iterator[tuple[str, str]]:
    for name, command in main.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from ((name, option) for option in parameter.opts)


@pytest.mark.parametrize("name", list(main.commands))
def test_every_option_is_in_the_reference(name):
    text = text_of("reference/cli.md")
    sections_by_command = re.split(r"^## graphprop (\w+)$", text, flags=re.MULTILINE)
    bodies = dict(zip(sections_by_command[1::2], sections_by_command[2::2], strict=True))
    wanted = {option for command, option in options() if command == name}
    assert wanted
    documented = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", bodies[name]))
    assert wanted <= documented
    assert documented - wanted <= {"--weights", "--json", "--debug"} | wanted


# File formats

NAMES = ("batch_norms files versions parameters rules roles onnx_names fingerprint.result").split()
NAMES += ["fingerprint.relevance", "layers[].flows", "check.stages.rows[].errors"]
"""The objects of a manifest whose keys are names of something."""


def fields_of(value: object, place: str = "") -> Iterator[str]:
    """The paths of all fields of a manifest, as docs/formats.md writes them."""
    if isinstance(value, dict):
        for key, part in value.items():
            step = "*" if place in NAMES else key
            path = f"{place}.{step}" if place else step
            yield path
            yield from fields_of(part, path)
    elif isinstance(value, list):
        for part in value:
            yield from fields_of(part, f"{place}[]")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the models, and the digits compiled."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "models").symlink_to(ROOT / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["compile", "models/digits.py"], standalone_mode=False)
    return folder


def test_every_field_of_a_manifest_is_documented(workplace):
    manifest = json.loads((workplace / "build/digits-epsilon_plus_flat/manifest.json").read_text())
    assert manifest["check"]["passed"]
    documented = in_code("formats.md")
    assert sorted(set(fields_of(manifest)) - documented) == []


def test_every_entry_of_the_onnx_metadata_is_documented(workplace):
    import onnx

    model = onnx.load(workplace / "build/digits-epsilon_plus_flat/explainer.onnx")
    documented = in_code("formats.md")
    written = {entry.key for entry in model.metadata_props}
    names = {value.name for value in (*model.graph.input, *model.graph.output)}
    assert "graphprop.method" in written
    assert written | names <= documented


# Samples


def samples_of(name: str) -> list[str]:
    """The Python samples of a page; those with a title are excerpts of files."""
    return re.findall(r"^```python\n(.*?)^```", text_of(name), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        "getting-started.md",
        "guides/custom-network.md",
        "guides/drawing.md",
        "guides/ship.md",
        "extending.md",
    ],
)
def test_the_samples_of_a_page_run_one_after_another(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    samples = samples_of(page)
    assert samples
    namespace = {"__name__": f"sample_of_{page}"}
    for number, sample in enumerate(samples):
        exec(compile(sample, f"{page}, sample {number}", "exec"), namespace)


def test_the_operator_of_the_recipe_is_compiled_and_checked(tmp_path, monkeypatch):
    text = "\n".join(samples_of("extending.md")).replace('"docs::bent"', '"docs::bent_again"')
    text = text.replace("torch.ops.docs.bent.", "torch.ops.docs.bent_again.")
    text = text.replace('"absolute"', '"absolute_again"')
    (tmp_path / "recipe.py").write_text(text)  # helpers are copied from their file
    spec = importlib.util.spec_from_file_location("recipe", tmp_path / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "recipe", recipe)
    spec.loader.exec_module(recipe)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(recipe.bent(self.conv(x), 0.1).mean((2, 3)))

    explainer = graphprop.compile(Net().eval(), torch.zeros(1, 1, 8, 8))
    assert "bent" in {layer.operator for layer in explainer.layers}
    report = explainer.check()
    assert report.passed, report


# Messages


def fragments() -> list[str]:
    """The constant parts of the messages that docs/troubleshooting.md quotes."""
    rows = re.findall(r"^\| (`.*?`) \|", text_of("troubleshooting.md"), flags=re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    return [part.strip() for message in quoted for part in message.split("…") if part.strip(" :")]


def literals() -> str:
    """All text constants of the package; neighbors in one f-string are joined by a mark."""
    found = []
    for path in (ROOT / "graphprop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    code, quoted = literals(), fragments()
    assert len(quoted) > 80
    assert [part for part in quoted if part not in code] == []


def test_every_kind_of_error_is_in_troubleshooting():
    kinds = [GraphpropError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    own = {kind.__name__ for kind in kinds[1:] if kind.__module__ == "graphprop.errors"}
    rows = re.findall(r"^\| `(\w+)` \| (\d) \|", text_of("troubleshooting.md"), flags=re.MULTILINE)
    assert {name: int(code) for name, code in rows} == {
        name: getattr(graphprop.errors, name).exit_code for name in own
    }


# The site


def test_every_page_is_in_the_navigation_and_nothing_is_fetched_from_elsewhere():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = re.findall(r": ([\w/-]+\.md)$", config, flags=re.MULTILINE)
    assert sorted(navigation) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)
    assert re.search(r"^  font: false", config, flags=re.MULTILINE)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img)|!\[[^]]*\]\(https?:", text), page
        assert "```mermaid" not in text, page  # it is drawn by a script from elsewhere


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
