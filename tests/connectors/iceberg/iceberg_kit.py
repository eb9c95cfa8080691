"""A catalogue in a folder, and what another reader finds in its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

CATALOG = {"type": "sql", "uri": "sqlite:///catalog.db", "warehouse": "lake"}


def catalog_of(folder: Path) -> SqlCatalog:
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'catalog.db'}"
    catalog = SqlCatalog("dataflare", uri=uri, warehouse=(folder / "lake").as_uri())
    catalog.engine.dispose()
    catalog.engine = create_engine(uri, poolclass=NullPool)
    return catalog


def table_of(folder: Path, name: str = "shop.orders") -> Any:
    return catalog_of(folder).load_table(name)


def frame_of(folder: Path, name: str = "shop.orders", branch: str = "main") -> pl.DataFrame | None:
    """The rows of a table; None if it does not exist."""
    if not (folder / "catalog.db").exists():
        return None
    try:
        table = table_of(folder, name)
    except (NoSuchTableError, NoSuchNamespaceError):
        return None
    snapshot = table.metadata.snapshot_by_name(branch)
    if snapshot is None:
        return pl.DataFrame(pl.from_arrow(table.scan().to_arrow()))
    return pl.DataFrame(pl.from_arrow(table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()))
