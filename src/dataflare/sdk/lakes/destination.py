"""A destination that writes a table of a lake."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.destination import DestinationCapabilities
from dataflare.sdk.sql.destination import TableDestination

_KEYS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "decimal",
         "string", "json", "binary", "date", "time", "timestamp")  # fmt: skip
_REASONS = {
    "append": "rows and epoch are in one commit of the table",
    "overwrite": "rows are staged with their epoch, and one commit at the end of the run replaces the table",
    "upsert": "rows and epoch are in one commit of the table; upsert ignores deletes and TRUNCATE",
    "mirror": "rows, deletes and epoch are in one commit of the table",
}


class LakeDestination(TableDestination):
    """A connector adds its `LakeStore`."""

    def capabilities(self) -> DestinationCapabilities:
        reason = _REASONS[self.config.mode]
        return replace(super().capabilities(), reason=reason, keeps_unchanged=False)

    def runs_statements(self) -> bool:
        return False

    def check_columns(self, schema: Schema) -> None:
        super().check_columns(schema)
        step = self.context.step
        for name in self.config.key if self.config.mode in ("upsert", "mirror") else ():
            if name in schema and schema[name].name not in _KEYS:
                raise ConfigError(
                    f"step '{step}': the key '{name}' has the type {schema[name]}",
                    code="E0411",
                    step=step,
                    help="choose columns with exact values: numbers without fractions, text, dates, times",
                )
        names: dict[str, str] = {}
        for name in self.target(schema).schema.names:
            other = names.setdefault(name.casefold(), name)
            if other != name:
                raise ConfigError(
                    f"step '{step}': columns '{other}' and '{name}' differ only in case; most programs that read "
                    f"{self.type} tables treat them as one column",
                    code="E0411",
                    step=step,
                    help=f"rename one of them with map: rename: {{{name}: ...}}, or drop it",
                )
