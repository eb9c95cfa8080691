"""`map`, `mask` and `sample`: columns made, renamed, hidden; rows drawn."""

from __future__ import annotations

import hashlib

import pytest
from flows import failure, picture, refused, result_of

ORDERS = [
    {"id": 1, "net": 10.0, "note": "a"},
    {"id": 2, "net": None, "note": "b"},
    {"id": 3, "net": 2.5, "note": None},
]


def mapped(config: str, **more: object) -> object:
    return result_of(f"step: {{type: map, inputs: [s], config: {config}}}", s=ORDERS, **more)


def test_the_parts_of_a_map_follow_one_another():
    made = mapped(
        '{derive: {gross: "net * 2", net: "net + 1"}, rename: {id: order}, cast: {order: string}, '
        "drop: [note], select: [net, order, gross]}"
    )
    assert made == [
        {"net": 11.0, "order": "1", "gross": 20.0},
        {"net": None, "order": "2", "gross": None},
        {"net": 3.5, "order": "3", "gross": 5.0},
    ]


def test_every_derived_column_reads_the_incoming_row():
    made = mapped('{derive: {id: "id + 1", twice: "id * 2"}, select: [id, twice]}')
    assert made == [{"id": 2, "twice": 2}, {"id": 3, "twice": 4}, {"id": 4, "twice": 6}]


def test_names_may_change_places():
    made = mapped("{rename: {id: net, net: id}, drop: [note]}")
    assert made == [{"net": 1, "id": 10.0}, {"net": 2, "id": None}, {"net": 3, "id": 2.5}]


def test_a_map_without_config_lets_all_pass():
    assert mapped("{}") == ORDERS


def test_a_cast_that_does_not_fit_fails_its_row():
    error = failure("step: {type: map, inputs: [s], config: {cast: {note: int64}}}", s=ORDERS)
    assert error.step == "step"
    assert "note" in error.message
    assert any("note='a'" in note for note in error.notes)


def test_a_value_nobody_reads_cannot_fail():
    assert result_of(
        "wide: {type: map, inputs: [s], config: {derive: {bad: CAST(note AS int64)}}}\n"
        "step: {type: map, inputs: [wide], config: {select: [id]}}",
        s=ORDERS,
    ) == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("config", "code", "token"),
    [
        ("{rename: {idd: x}}", "E0203", "idd"),
        ("{drop: [nett]}", "E0203", "nett"),
        ("{select: [id, nett]}", "E0203", "nett"),
        ("{cast: {nett: int64}}", "E0203", "nett"),
        ("{derive: {x: nett}}", "E0203", "nett"),
        ("{cast: {id: int63}}", "E0112", "int63"),
        ("{cast: {id: list<int64>}}", "E0204", "list<int64>"),
        ("{select: [id, net, id]}", "E0311", "id"),
        ("{rename: {note: net}}", "E0311", "net"),
        ("{rename: {note: __dataflare_note}}", "E0310", "__dataflare_note"),
        ("{derive: {__dataflare_x: id}}", "E0310", "__dataflare_x"),
        ("{drop: [id, net, note]}", "E0405", "map"),
        ("{selct: [id]}", "E0403", "selct"),
    ],
)
def test_errors_point_to_the_very_word(config: str, code: str, token: str):
    header, _, line, carets, *_ = picture(
        f"step: {{type: map, inputs: [s], config: {config}}}", s=ORDERS
    )
    assert header.startswith(f"error[{code}]")
    place = carets.index("^")
    assert line[place : place + carets.count("^")] == token


def test_an_unknown_column_is_shown_as_the_format_says():
    assert refused("step: {type: map, inputs: [s], config: {drop: [nett]}}", s=ORDERS) == (
        "error[E0203]: unknown column 'nett' in step 'step'\n"
        " --> flow.yaml:6:50\n"
        "  |\n"
        "6 |   step: {type: map, inputs: [s], config: {drop: [nett]}}\n"
        "  |                                                  ^^^^\n"
        "   = it receives: id, net, note\n"
        "   = help: did you mean 'net'?"
    )


PEOPLE = [{"mail": "ann@example.com", "card": "4111222233334444", "age": 41, "name": "Ann"}]


def test_masks_hide_what_they_should():
    columns = "{mail: email, card: {method: keep_last, keep: 4}, age: null, name: redact}"
    made = result_of(
        f"step: {{type: mask, inputs: [s], config: {{columns: {columns}}}}}", s=[*PEOPLE, {}]
    )
    assert made[0]["card"] == "************4444"
    assert made[0]["mail"] != PEOPLE[0]["mail"]
    assert made[0]["mail"].endswith("@example.com")
    assert (made[0]["age"], made[0]["name"]) == (None, "***")
    assert made[1] == {"mail": None, "card": None, "age": None, "name": None}


def test_hashes_are_those_everyone_knows():
    made = result_of(
        "step: {type: mask, inputs: [s], config: {columns: {name: hash, age: hash, "
        "mail: {method: hmac, secret: \"'pepper'\"}}}}",
        s=PEOPLE,
    )
    assert made[0]["name"] == hashlib.sha256(b"Ann").hexdigest()
    assert made[0]["age"] == hashlib.sha256(b"41").hexdigest()
    assert len(made[0]["mail"]) == 64


@pytest.mark.parametrize(
    ("columns", "code", "token"),
    [
        ("{nam: redact}", "E0203", "nam"),
        ("{age: email}", "E0204", "age"),
        ("{name: {method: hmac}}", "E0404", "name"),
        ("{name: redakt}", "E0405", "redakt"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(columns: str, code: str, token: str):
    header, _, line, carets, *_ = picture(
        f"step: {{type: mask, inputs: [s], config: {{columns: {columns}}}}}", s=PEOPLE
    )
    assert header.startswith(f"error[{code}]")
    assert line[carets.index("^") :].startswith(token)


NUMBERS = [{"n": n, "half": n // 2} for n in range(400)]


def sampled(config: str, **more: str) -> list[int]:
    made = result_of(f"step: {{type: sample, inputs: [s], config: {config}}}", s=NUMBERS, **more)
    return sorted(row["n"] for row in made)


def test_a_sample_by_key_is_the_same_on_every_run_and_keeps_keys_whole():
    first = sampled("{fraction: 0.5, key: half}")
    assert first == sampled(
        "{fraction: 0.5, key: [half]}", settings="{parallelism: 1, batch: {initial: 7, min: 7}}"
    )
    assert 120 < len(first) < 280
    assert all((n ^ 1) in first for n in first)


def test_a_sample_of_rows_has_about_the_fraction():
    assert 120 < len(sampled("{fraction: 0.5}")) < 280
    assert sampled("{fraction: 1}") == list(range(400))
    assert sampled("{fraction: 0}") == []


def test_another_seed_draws_other_rows_and_a_larger_fraction_more():
    first = sampled("{fraction: 0.3, key: n}")
    assert set(first) < set(sampled("{fraction: 0.6, key: n}"))
    assert first != sampled("{fraction: 0.3, key: n, seed: 1}")
