"""The differences of a test: as a table to read, as JUnit XML for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from dataflare.cli import human, tables
from dataflare.errors import render
from dataflare.security.redact import redact

if TYPE_CHECKING:
    from dataflare.jobs.compare import Difference
    from dataflare.jobs.workflow_test import CaseResult

_SHOWN_MAX = 50
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def counted(differences: Sequence[Difference]) -> str:
    counts = {kind: sum(each.kind == kind for each in differences) for kind in _SIGNS}
    return ", ".join(f"{human.counted(n, 'row')} {kind}" for kind, n in counts.items() if n)


_SIGNS = {"missing": "-", "unexpected": "+", "different": "≠"}


def table(differences: Sequence[Difference]) -> Iterator[str]:
    """A line for each row. A cell that differs shows both values."""
    rows = [each.actual or each.expected or {} for each in differences]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        [f"{_SIGNS[each.kind]} {each.kind}", *(_cell(each, name) for name in columns)]
        for each in differences[:_SHOWN_MAX]
    ]
    yield from tables.lines(("", *columns), cells)
    if len(differences) > _SHOWN_MAX:
        yield f"and {human.count(len(differences) - _SHOWN_MAX)} more"


def _cell(difference: Difference, column: str) -> str:
    expected, actual = difference.expected, difference.actual
    if column in difference.columns:
        assert expected is not None
        assert actual is not None
        return f"{_shown(actual[column])} (expected {_shown(expected[column])})"
    row: Mapping[str, Any] = actual or expected or {}
    return _shown(row[column]) if column in row else ""


def _shown(value: object) -> str:
    return "NULL" if value is None else str(value).replace("\n", "⏎")


def write_junit(path: Path, workflow: str, results: Sequence[CaseResult]) -> None:
    """Write JUnit XML, as continuous integration systems read it."""
    total = sum(each.duration_s for each in results)
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(each.status == "failed" for each in results)),
        "errors": str(sum(each.status == "error" for each in results)),
        "time": f"{total:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": workflow, **counts})
    for each in results:
        facts = {"classname": workflow, "name": _xml(each.name), "time": f"{each.duration_s:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", facts)
        if each.error is not None:
            attributes = {"message": _xml(each.error.message), "type": each.error.code}
            failure = ElementTree.SubElement(case, "error", attributes)
            failure.text = _xml(render(each.error, redact))
        elif each.status == "failed":
            parts = {
                name: differences for name, differences in each.differences.items() if differences
            }
            message = "; ".join(
                f"{name}: {counted(differences)}" for name, differences in parts.items()
            )
            failure = ElementTree.SubElement(case, "failure", {"message": _xml(message)})
            lines = [line for differences in parts.values() for line in table(differences)]
            failure.text = _xml("\n".join([*lines, *each.failed_rows]))
    from dataflare.checkpoint.files import make_folder, write_whole, writing

    with writing("the JUnit file"):
        make_folder(path.absolute().parent)
        write_whole(path.absolute(), ElementTree.tostring(root, "utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    """The text without secrets and without characters that XML cannot represent."""
    return _NOT_XML.sub("\ufffd", redact(text))
