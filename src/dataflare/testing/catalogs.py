"""The contract of sources that say what their system has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataflare.model.types import Schema
from dataflare.sdk import registry
from dataflare.sdk.catalog import SupportsCatalog
from dataflare.testing.build import description
from dataflare.testing.contract import ContractBroken

_LAW = "catalogue"


async def check_catalog(
    type_: str, config: Mapping[str, Any], *, base: Path | None = None
) -> dict[str, Schema]:
    """The columns of each thing, by name, if the source keeps the contract. type_: of the source. config: the
    options that say where its system is. base: the folder of relative paths. Raises ContractBroken."""
    class_ = registry.source(type_)
    if not issubclass(class_, SupportsCatalog):
        raise ContractBroken(_LAW, f"the source '{type_}' does not derive from SupportsCatalog")

    async def listed() -> Any:
        source: Any = description(class_, {**class_.unchosen, **config}, base=base)
        try:
            return await source.catalog()
        finally:
            await source.aclose()

    entries = await listed()
    if list(entries) != list(await listed()):
        raise ContractBroken(_LAW, "two calls of `catalog` give different entries")
    names = [entry.name for entry in entries]
    if len({*names}) < len(names):
        raise ContractBroken(_LAW, f"`catalog` gives a name twice: {names}")
    schemas: dict[str, Schema] = {}
    for entry in entries:
        if not entry.config.keys() >= class_.unchosen.keys():
            raise ContractBroken(
                _LAW, f"the entry '{entry.name}' does not say {[*class_.unchosen]}"
            )
        source = description(class_, {**config, **entry.config}, base=base)
        try:
            schemas[entry.name] = await source.schema()
        finally:
            await source.aclose()
    return schemas
