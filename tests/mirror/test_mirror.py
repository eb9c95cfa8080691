"""A table is mirrored while random writers change it and runs, servers and connections are killed: in the end all copies
are equal.

A failure names its seed; `python tests/mirror/mirror_soak.py --seed 7 --seeds 1 --events 3` repeats it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mirror_scenario import mirror


@pytest.mark.rotates(3)
@pytest.mark.parametrize("seed", range(24))
def test_a_mirror_is_equal_after_kills(
    servers_to_kill: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    mirror(seed, servers_to_kill, tmp_path)


@pytest.mark.rotates(2)
@pytest.mark.parametrize("seed", range(4))
def test_a_topic_has_the_newest_row_of_each_key_after_kills(
    servers_to_kill: dict[str, Any], kafka: Any, tmp_path: Path, seed: int
) -> None:
    mirror(seed, {**servers_to_kill, "kafka": kafka}, tmp_path)
