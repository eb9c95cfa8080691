"""Each kind of fault that a row may have has a number of its own: the dead letter is named by it."""

from __future__ import annotations

from dataflare.expr import rowerrors
from dataflare.operators import lookup, parse, schema_change, stamp, validate


def test_no_two_kinds_of_faults_have_one_number() -> None:
    kinds = {
        f"{module.__name__}.{name}": value
        for module in (rowerrors, lookup, parse, schema_change, stamp, validate)
        for name, value in vars(module).items()
        if name.isupper() and type(value) is int and 0 < value < 256
    }
    by_number: dict[int, set[str]] = {}
    for name, value in kinds.items():
        by_number.setdefault(value, set()).add(name.rpartition(".")[2])
    assert [names for names in by_number.values() if len(names) > 1] == []
    assert len(by_number) >= 14
