"""Changes of MariaDB that become row errors, as of PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from changes_that_fail import FailingShop, check_that_a_change_that_fails_takes_its_row_with_it
from mysql_kit import Database


@pytest.mark.parametrize("fault", ["source", "step", "keeping step"])
def test_a_change_that_fails_takes_its_row_with_it(
    plain: Database, tmp_path: Path, fault: str
) -> None:
    plain.execute("create table orders (id int primary key, name varchar(20), v date)")
    bad = "'0000-00-00'" if fault == "source" else "'2024-01-02'"
    shop = FailingShop(plain, tmp_path, "mysql", fault)
    check_that_a_change_that_fails_takes_its_row_with_it(shop, "'2024-01-01'", bad)
