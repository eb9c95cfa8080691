"""Expressions are read once for all jobs of a process, and each job has its own variables, places and errors."""

from __future__ import annotations

import pytest

from dataflare.errors import ExpressionError, Spot
from dataflare.expr import check
from dataflare.expr.shared import _MOST, Shared
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import STRING, Schema

ORDERS = Schema.of({"amount": "float64", "name": "string"})


def text_at(text: str, line: int) -> SourceText:
    return SourceText(text, starts=((0, Spot(None, line, 1, text, 1)),))


def test_the_same_text_over_the_same_columns_is_read_once() -> None:
    one = check("amount * 7.25 + 1", ORDERS, step="a")
    assert check("amount * 7.25 + 1", ORDERS, step="a") is one
    assert check("amount * 7.25 + 1", ORDERS, step="b") is not one
    assert check("amount * 7.25 + 1", ORDERS, step="a", name="x") is not one
    other = Schema.of({"amount": "int64"})
    assert check("amount * 7.25 + 1", other, step="a").node != one.node


def test_an_error_names_the_place_of_its_own_text() -> None:
    for line in (3, 9):
        for wrong in ("amount +", "amount + nme"):
            with pytest.raises(ExpressionError) as caught:
                check(text_at(wrong, line), ORDERS, step=f"s{line}")
            assert caught.value.spot is not None
            assert (caught.value.spot.line, caught.value.step) == (line, f"s{line}")


def test_what_was_right_for_other_columns_is_checked_again() -> None:
    check(text_at("amount > 3", 1), ORDERS, step="s")
    with pytest.raises(ExpressionError) as caught:
        check(text_at("amount > 3", 8), Schema.of({"name": "string"}), step="s")
    assert caught.value.spot is not None
    assert caught.value.spot.line == 8


def test_variables_are_not_shared() -> None:
    def with_value(value: str) -> SourceText:
        variable = Variable("__00______", "${param:n}", value, STRING)
        return SourceText(f"name = {value}", template="name = __00______", variables=(variable,))

    first, second = (check(with_value(value), ORDERS, step="s") for value in ("a", "b"))
    assert [n.value for n in first.node.walk() if n.op == "literal"] == ["a"]
    assert [n.value for n in second.node.walk() if n.op == "literal"] == ["b"]


def test_each_uuid_of_a_step_is_another() -> None:
    one, two = (check("uuid()", ORDERS, step="s", name=name) for name in ("a", "b"))
    assert one.node != two.node


def test_what_is_kept_is_limited() -> None:
    shared: Shared[int, int] = Shared()
    for number in range(3 * _MOST):
        assert shared.keep(number, -number) == -number
        assert len(shared._values) <= _MOST
    assert shared.get(3 * _MOST - 1) == 1 - 3 * _MOST
    assert shared.get(0) is None
