"""Generated source: the functions copied into it, its format, and what it may call.

Generated source calls functions of torch, the methods of tensors listed here, and what its
operators declare (`Operator.calls`, `Operator.helpers`).
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from ruff import __main__ as ruff

from graphprop.emit.layout import WIDTH
from graphprop.errors import OperatorError, VerificationError
from graphprop.ops import Operator, helpers
from graphprop.ops.source import name_of

KNOWN = {"torch": torch, "F": F}
"""What a function that is copied into generated source can use."""


def functions_of(operators: Iterable[Operator], *more: str) -> dict[str, Callable[..., Any]]:
    """The functions that the source of operators calls, by name, and ``more`` of graphprop's own.

    Raises
    ------
    OperatorError
        If two have the same name, or one uses what a generated module doesn't have.
    """
    found: dict[str, Callable[..., Any]] = {}
    declared = [helper for operator in operators for helper in operator.helpers]
    for helper in (*more, *declared):
        name = name_of(helper)
        function = getattr(helpers, name, None) if isinstance(helper, str) else helper
        if function is None or found.setdefault(name, function) is not function:
            reason = "is none of graphprop's" if function is None else "means two functions"
            raise OperatorError(
                f"the helper {name!r} {reason}: name a function of your own, in `helpers` of the "
                "operator, by the function itself, and call it as nothing else is called"
            )
    for name, function in found.items():
        used = inspect.getclosurevars(function)
        foreign = [*used.nonlocals] + [
            other
            for other, value in used.globals.items()
            if {**KNOWN, **found}.get(other) is not value
        ]
        if foreign and function.__module__ != helpers.__name__:
            raise OperatorError(
                f"the helper {name!r} uses {foreign[0]!r}, which a generated module doesn't have: "
                "use torch, F (torch.nn.functional), and functions that the operator names in "
                "`helpers`, too"
            )
    return dict(sorted(found.items()))


def text_of_function(function: Callable[..., Any]) -> str:
    """A function's source without type annotations: the generated module has none."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        raise OperatorError(
            f"the helper {function.__name__!r} must be a plain function, defined by `def`"
        )
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    definition.returns = None
    for parent in ast.walk(tree):
        body = getattr(parent, "body", None)
        if isinstance(body, list):
            parent.body = [  # type: ignore[attr-defined]
                ast.Assign([s.target], s.value, lineno=s.lineno)
                if isinstance(s, ast.AnnAssign) and s.value is not None
                else s
                for s in body
            ]
    return ast.unparse(ast.fix_missing_locations(tree))


LEFT_ALONE = "# fmt: off"
"""The comment behind the imports: a formatter would put each argument on a line of its own. It is
one to formatters only if nothing else stands in it."""

AS_IT_IS = ("# fmt: off", "# fmt: on")
"""Between these comments source is laid out already; they are removed."""


def formatted(source: str) -> str:
    """The source as ruff formats it, but for what is laid out already."""
    # the length is given so that the text follows from nothing outside
    command = [ruff.find_ruff_bin(), "format", "--isolated", f"--line-length={WIDTH}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerificationError(f"the generated source is no Python: {done.stderr.strip()}")
    lines = [line for line in done.stdout.splitlines() if line.strip() not in AS_IT_IS]
    behind = 1 + max(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    return "\n".join([*lines[:behind], "", LEFT_ALONE, *lines[behind:], ""])


IMPORTS = {"torch", "torch.nn.functional", "safetensors", "safetensors.torch", "pathlib"}
"""What generated source imports."""

# What generated source may call. The lists hold what the templates and graphprop's own operators
# and helpers call: functions that cannot read files (but for the weights), run code or reach
# outside the module. An operator from outside declares what it calls in addition.
CALLABLE_NAMES = frozenset(
    "super load_file Path Explainer str range list map zip tuple sorted type isinstance slice "
    "ValueError TypeError FileNotFoundError FloatingPointError".split()
)
CALLABLE_ROOTS = frozenset({"F", "torch"})
CALLABLE_METHODS = frozenset(
    "__init__ register_buffer eval items to new_ones new_tensor new_zeros reshape permute flip "
    "expand sum clamp abs dim amin amax transpose flatten unsqueeze scatter scatter_add_ "
    "gather argmax reciprocal nan_to_num_ contiguous is_floating_point numel single derive "
    "_apply _load_from_state_dict is_complex is_file join keys replace get split".split()
)


def check_calls(source: str, functions: Iterable[str], methods: Iterable[str] = ()) -> None:
    """Parse the finished source and refuse any call or import that nothing declares.

    Parameters
    ----------
    functions, methods
        What may be called in addition to torch, by the operators' declarations.

    Raises
    ------
    VerificationError
        If there is another call, or an import.
    """
    names, known = CALLABLE_NAMES.union(functions), CALLABLE_METHODS.union(methods)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            )
            if not set(modules) <= IMPORTS:
                raise VerificationError(f"the generated source imports {modules}")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        root, _, method = name.rpartition(".")
        fine = (
            name in names
            if isinstance(node.func, ast.Name)
            else (root.split(".")[0] in CALLABLE_ROOTS and "_C" not in root) or method in known
        )
        if not fine:
            declared = "calls" if root else "helpers"
            raise VerificationError(
                f"the generated source calls {name!r}, which none of its operators declares: name "
                f"{method!r} in `{declared}` of the operator that prints it"
            )
