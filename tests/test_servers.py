"""Where the tests' servers come from, and what `compose.yaml` promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from servers import choice, compose

SERVICES = yaml.safe_load(compose.FILE.read_text())["services"]
HERE = Path("/somewhere/bin")


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no root, no Docker, and no environment variable for either."""
    monkeypatch.delenv("TEST_SERVERS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(compose, "usable", lambda: False)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_a_service_is_pinned_healthy_and_for_this_machine_alone(name: str):
    service = SERVICES[name]
    assert re.fullmatch(rf"{name}:\$\{{{name.upper()}_VERSION:-\d+\}}", service["image"])
    assert service["healthcheck"]["test"]
    assert [port.startswith("127.0.0.1:${") for port in service["ports"]] == [True]


def test_programs_of_this_machine_come_first(nothing_here, monkeypatch):
    monkeypatch.setattr(compose, "usable", lambda: True)
    assert choice.choose("X", lambda: HERE, "x") == HERE
    assert choice.choose("X", lambda: None, "x") is None
    monkeypatch.setenv("TEST_SERVERS", "docker")
    assert choice.choose("X", lambda: HERE, "x") is None


def test_without_a_server_tests_are_skipped_but_not_where_ci_is_true(nothing_here, monkeypatch):
    with pytest.raises(pytest.skip.Exception, match="apt-get install x"):
        choice.choose("X", lambda: None, "x")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="or start Docker"):
        choice.choose("X", lambda: None, "x")


def test_a_way_that_is_none_is_said(nothing_here, monkeypatch):
    monkeypatch.setenv("TEST_SERVERS", "podman")
    with pytest.raises(pytest.fail.Exception, match="can be local or docker"):
        choice.choose("X", lambda: HERE, "x")
