"""What checks of several directories found, for programs: as JSON, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from graphprop.checking.report import NOT_CHECKED, PASSED, Report
from graphprop.errors import GraphpropError

ERROR = "error"


@dataclass(frozen=True)
class Checked:
    """A directory and what a check found there, or why it could not be checked."""

    directory: str
    report: Report | None = None
    error: GraphpropError | None = None

    @property
    def status(self) -> str:
        """``"passed"``, ``"failed"``, ``"not checked"`` or ``"error"``."""
        return ERROR if self.report is None else self.report.status

    @property
    def passed(self) -> bool:
        """Whether it was checked, and passed."""
        return self.status == PASSED

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.passed else 1

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON holds it: ``directory``, ``status``, ``passed``, ``check``, ``error``.

        ``check`` is what `Report.as_dict` gives, or null; ``error`` an object with ``type``,
        ``message`` and ``exit_code``, or null.
        """
        error = self.error
        return {
            "directory": self.directory,
            "status": self.status,
            "passed": self.passed,
            "check": self.report.as_dict() if self.report is not None else None,
            "error": error
            and {
                "type": type(error).__name__,
                "message": str(error),
                "exit_code": error.exit_code,
            },
        }


def as_junit(checked: Sequence[Checked]) -> str:
    """JUnit XML: a suite for each directory, a case for its files and for each backend."""
    root = ElementTree.Element("testsuites", name="graphprop check")
    for one in checked:
        suite = ElementTree.SubElement(root, "testsuite", name=clean(one.directory))
        for name, seconds, outcome, text in cases_of(one):
            attributes = {"classname": clean(one.directory), "name": name}
            if seconds is not None:
                attributes["time"] = f"{seconds:.3f}"
            case = ElementTree.SubElement(suite, "testcase", attributes)
            if outcome:
                ElementTree.SubElement(case, outcome, message=clean(text))
        if one.report is not None:
            ElementTree.SubElement(suite, "system-out").text = clean(str(one.report))
        for key, path in (
            ("tests", "testcase"),
            ("failures", "testcase/failure"),
            ("errors", "testcase/error"),
            ("skipped", "testcase/skipped"),
        ):
            suite.set(key, str(len(suite.findall(path))))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return declaration + ElementTree.tostring(root, encoding="unicode") + "\n"


def cases_of(one: Checked) -> list[tuple[str, float | None, str, str]]:
    """The cases of a directory: name, seconds, what became of it (nothing if all is well), why."""
    report = one.report
    if report is None:
        return [("check", None, "error", str(one.error))]
    cases: list[tuple[str, float | None, str, str]] = []
    cases.append(("files", None, "failure" if report.changes else "", "; ".join(report.changes)))
    for result in report.backends:
        outcome = "skipped" if result.skipped else "" if result.passed else "failure"
        text = result.skipped or result.complaint()
        cases.append((result.name, result.seconds, outcome, text))
    if report.status == NOT_CHECKED:
        cases.append(("compared", None, "failure", report.complaint()))
    return cases


def clean(text: str) -> str:
    """Text without what XML can't hold."""
    return "".join(c if c in "\t\n" or c.isprintable() else ascii(c)[1:-1] for c in text)
