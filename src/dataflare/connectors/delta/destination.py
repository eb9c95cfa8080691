"""Write a Delta table: rows and epoch in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.delta.config import DeltaWriteOptions
from dataflare.connectors.delta.place import DeltaAddress, address_of
from dataflare.connectors.delta.store import DeltaStore
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.lakes.destination import LakeDestination
from dataflare.sdk.places import Table
from dataflare.sdk.places import Target as Place
from dataflare.sdk.sql.session import Session, shared_session
from dataflare.sdk.sql.store import Target


class DeltaDestination(LakeDestination):
    type = "delta"
    Config = DeltaWriteOptions
    summary = "Writes a Delta Lake table, exactly once."
    example = """\
lake:
  type: delta
  inputs: [orders]
  config: {path: lake/orders, mode: upsert, key: [order_id]}
"""
    config: DeltaWriteOptions

    @property
    def address(self) -> DeltaAddress:
        return address_of(self.config.path, self.config.storage, self.context)

    @property
    def table_name(self) -> str:
        return self.config.path

    def writes_to(self) -> Place:
        return Place(
            f"the Delta table {self.address.uri}", shared=self.config.mode in ("append", "upsert")
        )

    def table(self) -> Table:
        return Table(self.address.uri, "delta")

    def make_store(self) -> DeltaStore:
        return DeltaStore(self.address, self.config.partition_by, self.config.properties)

    def session(self, context: DestinationContext) -> Session:
        return shared_session(("delta", self.address.key), "delta", lambda aside: self.make_store())

    def report_place(self) -> Mapping[str, str]:
        return {"path": self.address.label}

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        return self.make_store().look(target, check=check)
