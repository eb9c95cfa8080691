"""Where secrets come from."""

from __future__ import annotations

import pytest

from dataflare.errors import WorkflowError
from dataflare.security.secrets import (
    ChainedSecrets,
    EnvironmentSecrets,
    FileSecrets,
    default_secrets,
)


@pytest.mark.parametrize(
    ("environ", "value"),
    [
        ({"DATAFLARE_SECRET_pg-pass": "1", "pg-pass": "2"}, "1"),
        ({"DATAFLARE_SECRET_PG_PASS": "1", "PG_PASS": "2"}, "1"),
        ({"PG_PASS": "2"}, "2"),
        ({"pg-pass": ""}, ""),
        ({"OTHER": "2"}, None),
    ],
)
def test_the_environment_is_asked_by_prefix_first(environ, value):
    assert EnvironmentSecrets(environ).get("pg-pass") == value


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"word\n", "word"), (b"word\r\n", "word"), (b"two\nlines\n\n", "two\nlines\n"), (b"", "")],
)
def test_a_file_holds_a_secret_and_one_line_end(tmp_path, content, value):
    (tmp_path / "name").write_bytes(content)
    assert FileSecrets(tmp_path).get("name") == value


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/b", "..", ".", ".hidden", "", "x\0"]
)
def test_a_name_cannot_leave_the_folder(tmp_path, name):
    (tmp_path / "outside").write_text("no")
    inside = tmp_path / "inside"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "b").write_text("no")
    (inside / ".hidden").write_text("no")
    assert FileSecrets(inside).get(name) is None


def test_what_is_missing_is_not_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    assert FileSecrets(tmp_path).get("gone") is None
    assert FileSecrets(tmp_path).get("folder") is None
    assert FileSecrets(tmp_path / "no" / "folder").get("x") is None


def test_a_file_that_is_no_text_is_an_error_without_its_content(tmp_path):
    (tmp_path / "name").write_bytes(b"\xff\xfehunter2")
    with pytest.raises(WorkflowError, match="is not UTF-8 text") as caught:
        FileSecrets(tmp_path).get("name")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_no_secret_by_its_size_is_an_error(tmp_path):
    (tmp_path / "name").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(WorkflowError, match="larger than 1 MiB"):
        FileSecrets(tmp_path).get("name")


def test_the_first_that_knows_a_secret_answers(tmp_path):
    (tmp_path / "A").write_text("file")
    (tmp_path / "B").write_text("file")
    chain = ChainedSecrets([EnvironmentSecrets({"A": "environment"}), FileSecrets(tmp_path)])
    assert [chain.get(name) for name in "ABC"] == ["environment", "file", None]


def test_the_default_looks_in_the_environment_and_the_named_folder(tmp_path):
    (tmp_path / "S").write_text("file")
    environ = {"DATAFLARE_SECRETS_DIR": str(tmp_path), "T": "environment"}
    secrets = default_secrets(environ)
    assert (secrets.get("S"), secrets.get("T")) == ("file", "environment")
    assert secrets.place == (
        "the environment (DATAFLARE_SECRET_<NAME>, then <NAME>), "
        f"the folder {tmp_path}, the folder /run/secrets"
    )


def test_a_repr_shows_no_values(tmp_path):
    assert "hunter2" not in repr(default_secrets({"A": "hunter2"}))
