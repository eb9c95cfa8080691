from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from optional_packages import package

from dataflare.sdk.lakes.table import Change

deltalake = package("deltalake")


@pytest.mark.parametrize("length", [1, 4_095, 4_096, 100_000])
def test_a_marker_of_any_length_is_read_as_it_was_written(tmp_path: Path, length: int) -> None:
    from dataflare.connectors.delta.place import DeltaAddress
    from dataflare.connectors.delta.table import DeltaVersion

    deltalake.write_deltalake(str(tmp_path), pl.DataFrame({"a": [1]}))
    address = DeltaAddress(str(tmp_path), "t", ())
    text = "é" + "x" * (length - 1)
    DeltaVersion(address).commit(Change([], [], {"slot": text}, {}, {}))
    assert DeltaVersion(address).marker("slot") == text
