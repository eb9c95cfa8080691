"""Changes of a table as rows. Pure.

Always true: a change whose item cannot be read is bad, and deletes the row with its key, which is not true any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import polars as pl
from msgspec.structs import replace

from dataflare.formats.messages.contract import Decoded, Decoder
from dataflare.formats.messages.debezium import DebeziumDecoder, change_of

_ITEM = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ChangeDecoder(DebeziumDecoder):
    """keys: the attributes of the table's key."""

    def __init__(self, rows: Decoder, keys: Sequence[str]) -> None:
        super().__init__(rows, ())
        self._keys = list(keys)

    def decode(self, values: pl.Series) -> Decoded:
        decoded = super().decode(values)
        if not decoded.bad.height:
            return decoded
        failed = decoded.bad["message"].unique(maintain_order=True)
        deletes = pl.Series(
            [self._delete(value) for value in values.gather(failed)], dtype=pl.Binary
        )
        gone = super().decode(deletes)
        frame = pl.concat([decoded.rows, gone.rows.select(decoded.rows.columns)])
        places = pl.concat(
            [decoded.message, failed.gather(gone.message).cast(decoded.message.dtype)]
        )
        order = places.arg_sort()
        return replace(decoded, rows=frame[order], message=places.gather(order))

    def _delete(self, value: bytes) -> bytes:
        item = _ITEM.decode(change_of(value).row)
        key = {name: item[name] for name in self._keys}
        return b'{"op":"d","before":' + msgspec.json.encode(key) + b"}"
