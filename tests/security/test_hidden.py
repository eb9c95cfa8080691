"""Values of masked columns are found in the texts of systems, files and code."""

from __future__ import annotations

import datetime
import random

import polars as pl
import pytest

from dataflare.errors import DataError
from dataflare.sdk.runtime import Runtime
from dataflare.security.hidden import HiddenValues
from dataflare.security.redact import Redactor


def remembering(*values: object, column: str = "email") -> HiddenValues:
    hidden = HiddenValues()
    hidden.columns = frozenset([column])
    hidden.add(pl.DataFrame({column: list(values), "open": ["shown"] * len(values)}))
    return hidden


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("ann@x.example", "Key (email)=(ann@x.example) already exists.", "Key (email)=(***) already exists."),
        ("ann@x.example", "Duplicate entry 'ann@x.ex' for key", "Duplicate entry '***' for key"),
        ("Ann Lee", "no row for Ann Lee, and for Ann", "no row for ***, and for Ann"),
        ("O'Brien", "near 'O''Brien'", "near '***'"),
        ("a\nb-long", '{"v": "a\\nb-long"}', '{"v": "***"}'),
        ("Zoë", '"Zo\\u00eb"', '"***"'),
        (" padded ", "got < padded >", "got < *** >"),
        (4111111, "number 4111111, at 41", "number ***, at 41"),
        (7, "7 rows of 77", "*** rows of 77"),
        (12.0, "12 and 12.0", "*** and ***"),
        (datetime.date(1980, 2, 3), "born 1980-02-03", "born ***"),
        ({"street": "Long Lane 5"}, "at Long Lane 5.", "at ***."),
        (["first@x.example"], "of first@x.example", "of ***"),
        (b"\x01\xff", "bytes 01ff", "bytes ***"),
        (True, "True is not hidden", "True is not hidden"),
        (None, "None is not hidden", "None is not hidden"),
        ("", "nothing", "nothing"),
    ],
)  # fmt: skip
def test_a_value_is_taken_out_of_a_text(value: object, text: str, shown: str) -> None:
    assert remembering(value).without(text) == shown


def test_columns_that_are_not_masked_stay() -> None:
    assert remembering("ann").without("shown, ann") == "shown, ***"
    hidden = remembering("ann")
    hidden.columns = frozenset()
    assert hidden.without("ann") == "ann"


@pytest.mark.parametrize("seed", range(3))
def test_every_value_of_the_last_rows_is_found(seed: int) -> None:
    random_ = random.Random(seed)
    hidden = remembering()
    values: list[str] = []
    for _ in range(40):
        batch = ["".join(random_.choices("abc @.-'", k=random_.randint(6, 30))) for _ in range(50)]
        hidden.add(pl.DataFrame({"email": batch}))
        values += batch
        for value in random_.sample(values, 5):
            core = value.strip(" @.-'")
            assert len(core) < 6 or core not in hidden.without(f"row <{value}> is refused")


def test_what_is_remembered_is_bounded() -> None:
    hidden = remembering()
    for at in range(30):
        hidden.add(pl.DataFrame({"email": [f"user-{at}-{n}" for n in range(20_000)]}))
        hidden.without("x")
    assert sum(map(len, hidden._sorted)) <= 1 << 18
    assert hidden.without("user-29-19999") == "***"


def test_of_another_system_nothing_that_it_quotes_is_left_but_names() -> None:
    hidden = remembering("known@x.example")
    hidden.own = "host: db1, table: people".__contains__
    text = """relation "orders_pkey" at 'db1': invalid input 'bob@x.example' (1, bob@x.example) in column 'age'"""
    assert hidden.outside(text) == (
        """relation "orders_pkey" at 'db1': invalid input '***' (***) in column 'age'"""
    )
    assert Redactor((), hidden).redact_pieces(text) == hidden.outside(text)
    assert Redactor(()).redact_pieces(text) == text


def test_a_row_that_could_not_be_read_is_not_quoted() -> None:
    hidden = remembering("x")
    raw = '{"email": "bob@x.example", "age": "old"}'
    told = "column 'email': 'bob@x.example' is not int64"
    assert hidden.of_row(told, raw) == "column 'email': '***' is not int64"
    told = "column 'age': 'old' is not int64"
    assert hidden.of_row(told, raw) == told
    assert hidden.of_row("a row with 'bob@x.example' in it", raw) == "a row with '***' in it"


def test_an_error_is_made_without_them() -> None:
    with Runtime(hidden=remembering("ann@x.example")).entered():
        error = DataError("ann@x.example is refused", notes=["the row: ann@x.example"])
    assert (str(error), error.message, error.notes) == (
        "*** is refused",
        "*** is refused",
        ["the row: ***"],
    )
    assert DataError("ann@x.example").message == "ann@x.example"
