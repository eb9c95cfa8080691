"""What people see holds no secret."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataflare.security import redact as redaction
from dataflare.security.redact import Redactor, is_secret_name, mask_line, redact_connections

HIDDEN = [
    ("postgres://u:hunter2@db/x", "postgres://u:***@db/x"),
    (
        "see postgresql+psycopg://u:hun:ter2@db and more",
        "see postgresql+psycopg://u:***@db and more",
    ),
    ("redis://:hunter2@db:6379/0", "redis://:***@db:6379/0"),
    ("amqp://u:p@ss/word@db", "amqp://u:***@db"),
    ("mysql://u@corp:hunter2@db", "mysql://u@corp:***@db"),
    ("host=db password=hunter2 user=u", "host=db password=*** user=u"),
    ("host=db password='hun ter2' user=u", "host=db password=*** user=u"),
    ("Server=db;Pwd={hun;ter2};Uid=u", "Server=db;Pwd=***;Uid=u"),
    ("AccountKey=abc+/==;EndpointSuffix=x", "AccountKey=***;EndpointSuffix=x"),
    ("https://h/x?api_key=hunter2&y=1", "https://h/x?api_key=***&y=1"),
    ("https://h/x?sig=hunter2", "https://h/x?sig=***"),
    ("SASL_PASSWORD = hunter2", "SASL_PASSWORD = ***"),
]
SHOWN = [
    "",
    "postgres://u@db/x",
    "postgres://db:5432/x",
    "http://localhost:8080/path",
    "the password is wrong",
    "a token, a secret and a key",
    "design=5 and x = 7",
    "mail me at u@host.org",
    "C:\\data:x@y",
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_passwords_in_connection_strings_are_hidden(text, shown):
    assert redact_connections(text) == shown


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_connection_string_is_left_alone(text):
    assert redact_connections(text) == text


@pytest.mark.parametrize("text", [text for text, _ in HIDDEN] + SHOWN)
def test_hiding_twice_is_hiding_once(text):
    assert redact_connections(redact_connections(text)) == redact_connections(text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  password: hunter2  # x", "  password: *******  # x"),
        ('{api_key: "hunter2", b: 1}', '{api_key: "*******", b: 1}'),
        ("token: 'hunter2'", "token: '*******'"),
        ("password: ${secret:PG}", "password: ${secret:PG}"),
        ("password: x${PG}yz", "password: *${PG}**"),
        ('{token: "${secret:PG}", b: 1}', '{token: "${secret:PG}", b: 1}'),
        ("token: 'ab${PG}'", "token: '**${PG}'"),
        ('url: "postgres://u:hunter2@db"', 'url: "postgres://u:*******@db"'),
        ('url: "postgres://u:${secret:PG}@db"', 'url: "postgres://u:${secret:PG}@db"'),
        ("secret: secret_column", "secret: *************"),
        ("key: id", "key: id"),
        ("password:", "password:"),
    ],
)
def test_a_line_of_a_file_keeps_its_columns(line, shown):
    assert mask_line(line) == shown
    assert len(shown) == len(line)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_a_masked_line_is_as_long_as_before(line):
    assert len(mask_line(line)) == len(line)
    assert len(mask_line(f"password: {line}")) == len(line) + 10


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=4).filter(lambda w: w.strip())


@given(words, words, words)
def test_a_known_secret_is_in_no_text_however_it_is_spelt(secret, before, after):
    assume(secret not in "***")
    redactor = Redactor([secret])
    spellings = (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), repr(secret)[1:-1])
    for spelling in spellings:
        if len(spelling) >= 4:
            shown = redactor.redact(f"<<{spelling}>>")
            assert spelling not in shown or spelling in "<<***>>"
    assert secret not in redactor.redact(secret + secret)


def test_a_short_secret_is_hidden_as_a_word():
    redactor = Redactor(["ab", "7"])
    assert redactor.redact("ab, cab, 'ab' and 7 of 77") == "***, cab, '***' and *** of 77"


def test_the_longest_secret_is_hidden_first():
    assert Redactor(["hunter", "hunter2!"]).redact("x hunter2! hunter y") == "x *** *** y"


def test_each_line_of_a_secret_is_hidden():
    key = "-----BEGIN KEY-----\nMIIabc\n-----END KEY-----\n"
    assert "MIIabc" not in Redactor([key]).redact("line 2: MIIabc")
    assert Redactor([key]).redact(f"<{key}>") == "<***>"


def test_an_empty_secret_hides_nothing():
    assert Redactor(["", " \n"]).redact("a b\n c") == "a b\n c"


def test_a_redactor_shows_none_of_its_values():
    redactor = Redactor(["hunter2"])
    assert "hunter2" not in repr(redactor) + str(redactor)


def test_the_process_remembers_secrets(monkeypatch):
    monkeypatch.setattr(redaction, "_process", Redactor())
    assert redaction.redact("a hunter2 b") == "a hunter2 b"
    redaction.remember_secret("hunter2")
    assert redaction.redact("a hunter2 b, redis://:x@h") == "a *** b, redis://:***@h"


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "api_key", "apikey", "token", "client_secret"]
)
def test_names_that_hold_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["key", "id", "passwords_table", "tokens", "secretary", ""])
def test_names_that_hold_none(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=" * 5000, "password=***"),
        ("a://" * 5000, "a://" * 5000),
        ("a://b:" * 2000 + "@", "a://b:***@"),
        ("x:" * 20_000 + "@", "x:" * 20_000 + "@"),
        ("://" + "a" * 100_000, "://" + "a" * 100_000),
    ],
    ids=["pairs", "schemes", "users", "colons", "letters"],
)
@pytest.mark.timeout(20)
def test_a_hostile_text_is_read_in_linear_time(text, shown):
    assert redact_connections(text).endswith(shown)


def test_pieces_of_a_secret_are_hidden_in_messages_of_systems():
    redactor = Redactor(
        ["s3cret'Passphrase9", "postgresql://me:hunter2hunter@db.example/shop", "abc"]
    )
    pieces = redactor.redact_pieces
    assert pieces('syntax error at or near "Passphrase9"') == 'syntax error at or near "***"'
    assert pieces("role passphrase9 and S3CRET'p") == "role *** and ***"
    assert pieces("at Passp") == "at Passp"
    assert pieces("no host db.example in postgresql, hunter2hunt") == (
        "no host db.example in postgresql, ***"
    )
    assert pieces(pieces("x Passphrase9 y")) == "x *** y"
    assert Redactor().redact_pieces("plain") == "plain"


@given(st.text("abcXY'9", min_size=8, max_size=20), st.data())
def test_no_long_piece_of_a_secret_is_left(secret, data):
    start = data.draw(st.integers(0, len(secret) - 6))
    piece = secret[start : start + data.draw(st.integers(6, 20))]
    shown = Redactor([secret]).redact_pieces(f'near "{piece.upper()}", {piece}!')
    for at in range(len(secret) - 5):
        assert secret[at : at + 6].lower() not in shown.lower()


def test_a_line_whose_passwords_are_hidden_stays_as_long_as_it_is() -> None:
    line = 'url: {connection_string: "postgres://u:hunter2hunter2@db/x", table: t}'
    shown = mask_line(line)
    assert "hunter2" not in shown
    assert redact_connections(shown) == shown
    assert len(shown) == len(line)
