"""The marks of connectors name laws that there are, and tests that use the marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import marks

from dataflare.testing import DESTINATION_LAWS, SOURCE_LAWS, ContractBroken
from dataflare.testing.contract import check_laws

ROOT = Path(__file__).parents[2]
LAWS = {"source": SOURCE_LAWS, "destination": DESTINATION_LAWS}


@pytest.mark.parametrize("name", marks())
def test_marks_are_those_of_tests(name: str) -> None:
    mark = marks()[name]
    assert mark["tested_with"]
    for role, laws in LAWS.items():
        if role not in mark:
            continue
        assert mark[role]["guarantee"].endswith(".")
        assert {*(mark[role].get("gaps") or {})} <= {*laws}
        text = (ROOT / mark[role]["tests"]).read_text()
        if "unchecked" in mark[role]:
            assert mark[role]["unchecked"].endswith(".")
            continue
        checked = f'{role}_laws("{name}"' in text
        if mark[role].get("gaps"):
            assert checked or f'gaps("{name}", "{role}")' in text
        if {"replay", "delivery"} & {*mark[role]}:
            assert checked
        if "tables" in mark[role]:
            assert (ROOT / mark[role]["tables"]).exists()


async def _holds(subject: object) -> None:
    return


async def _breaks(subject: object) -> None:
    raise ContractBroken("breaks", "as it is marked")


def test_a_mark_fails_once_its_gap_is_closed() -> None:
    import asyncio

    laws = {"holds": _holds, "breaks": _breaks}
    asyncio.run(check_laws(laws, None, (), (), {"breaks": "not done"}))
    with pytest.raises(ContractBroken, match="it holds now"):
        asyncio.run(check_laws(laws, None, (), (), {"holds": "not done", "breaks": "not done"}))
    with pytest.raises(ContractBroken, match="as it is marked"):
        asyncio.run(check_laws(laws, None, (), ()))
