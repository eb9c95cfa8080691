"""When and where rows of the log were committed, and in which transaction. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

_EPOCH_US = 946_684_800_000_000
"""The server counts microseconds from 2000 on."""


def facts_of(
    names: Sequence[str], rows: npt.NDArray[Any], messages: Sequence[bytes], transactions: Sequence[int],
    times: Mapping[int, int],
) -> dict[str, pl.Series]:  # fmt: skip
    """The columns of facts. rows: of each row, the number of its message. times: by transaction, when it was committed."""
    numbers = pl.Series(np.array(transactions, np.int64)[rows])
    found = {"_txid": numbers.cast(pl.String), "_snapshot": pl.repeat(False, rows.size, eager=True)}
    if "_ts" in names:
        at = numbers.replace_strict([*times], [*times.values()], return_dtype=pl.Int64)
        found["_ts"] = (at + _EPOCH_US).cast(pl.Datetime("us", "UTC"))
    if "_lsn" in names:
        places = np.frombuffer(b"".join(message[1:9] for message in messages), ">i8")
        found["_lsn"] = pl.Series(places.astype(np.int64)[rows])
    return {name: found[name].alias(name) for name in names}
