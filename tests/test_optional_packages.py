"""A package that is missing skips a test on a developer's machine, and never in CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from optional_packages import package

TESTS = Path(__file__).parent


def test_a_missing_package_fails_in_ci(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="the package of 'no_such_module' is missing"):
        package("no_such_module")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no_such_module"):
        package("no_such_module")


def test_no_test_skips_by_itself_where_a_package_is_missing():
    call = "import" + "orskip"
    found = [str(p.relative_to(TESTS)) for p in TESTS.rglob("*.py") if call in p.read_text()]
    assert not found, "use optional_packages.package"
