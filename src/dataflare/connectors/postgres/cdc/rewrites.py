"""Tables whose rows are others than those that were given, although the log has no change that says so.

Always true: rows that ALTER TABLE wrote anew, and partitions that came or went with their rows, are noticed by the
catalogue, also by a later run; and so is a publication that may have left out changes. The table is then read again, or the run ends and says so. A table whose files alone are
others (VACUUM FULL, CLUSTER, TRUNCATE) or whose columns alone are (a new column that is NULL) has the rows that were given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.objects import FRESH
from dataflare.connectors.postgres.cdc.place import Storage, TablePlace
from dataflare.errors import DataError, SystemError_
from dataflare.sdk.sql.read_again import ANOTHER, has_other_rows, is_read_again, only_changes

_WRITTEN = "ALTER TABLE has written its rows anew, which is not in the log"
_PARTITIONS = "partitions with rows were attached, detached or dropped, which is not in the log"
_PUBLICATION = "its publication was changed meanwhile, and the log may lack changes"
_OF_SCHEMAS = 150_000
"""The first version that publishes all tables of a schema."""

# A partition that was made as one (CREATE TABLE ... PARTITION OF) was empty, and the log has what came into it. One that
# was attached has a link from a later transaction than its system columns.
_PUBLISHED = """\
select r.oid, concat_ws(' ', p.oid, p.xmin, (
    select t.oid from pg_publication_rel t where t.prpubid = p.oid and t.prrelid = r.oid
){schemas})
from unnest(%s::oid[]) r(oid) left join pg_publication p on p.pubname = %s"""
_SCHEMAS = """, (
    select n.oid from pg_publication_namespace n join pg_class c on c.relnamespace = n.pnnspid
    where n.pnpubid = p.oid and c.oid = r.oid
)"""

# pg_partition_tree would wait for a partition that is locked.
_NOW = """\
with recursive parts(root, relid) as (
    select oid, oid from pg_class where oid = any(%s)
    union all
    select parts.root, c.oid from parts join pg_inherits i on i.inhparent = parts.relid
    join pg_class c on c.oid = i.inhrelid and c.relispartition
)
select p.root, (
    select md5(string_agg(attnum || ':' || a.xmin, ',' order by attnum)) from pg_attribute a
    where a.attrelid = p.root and attnum > 0 and not attisdropped and attgenerated = ''
), p.relid, coalesce(pg_relation_filenode(p.relid), 0), h.xmin is distinct from first.xmin
from parts p
left join pg_inherits h on h.inhrelid = p.relid
left join pg_attribute first on first.attrelid = p.relid and first.attnum = -1"""


class Found(Struct, frozen=True):
    """storages: of the tables, as they are now. again: those to read again, and what users are told of it. warnings: of
    those that are not read."""

    storages: Mapping[int, Storage]
    again: Mapping[int, str]
    warnings: Collection[str]

    @property
    def told(self) -> Collection[str]:
        return [*self.again.values(), *self.warnings]

    def kept(self, oid: int, there: TablePlace) -> TablePlace:
        """The place that knows what the table is now. One that is to be read again knows it when that has begun, so that a
        later run notices it too."""
        storage = None if oid in self.again else self.storages.get(oid)
        return there if storage is None else replace(there, storage=storage)


def storages(db: Connection, following: Following, tables: Collection[int]) -> dict[int, Storage]:
    """By table that is there. Raises psycopg's errors."""
    return {oid: storage for oid, (storage, _) in _now(db, following, tables).items()}


def _now(
    db: Connection, following: Following, tables: Collection[int]
) -> dict[int, tuple[Storage, set[int]]]:
    """And the partitions that were attached with rows, perhaps."""
    columns: dict[int, str] = {}
    files: dict[int, dict[int, int]] = {oid: {} for oid in tables}
    attached: dict[int, set[int]] = {oid: set() for oid in tables}
    names = following.names
    assert names is not None
    schemas = _SCHEMAS if db.info.server_version >= _OF_SCHEMAS else ""
    sql = _PUBLISHED.format(schemas=schemas)
    published: dict[int, str] = dict(db.execute(sql, (list(tables), names.publication)).fetchall())
    for oid, text, part, file, is_attached in db.execute(_NOW, (list(tables),)).fetchall():
        columns[oid] = text or ""
        files[oid][part] = file
        if is_attached and part != oid:
            attached[oid].add(part)
    return {
        oid: (Storage(text, files[oid], published[oid]), attached[oid])
        for oid, text in columns.items()
    }


def look(db: Connection, following: Following, places: Mapping[int, TablePlace]) -> Found:
    """Compare tables with what their places know of them. Raises an error for a table that is to be read again, and behind
    which a step cannot take that; and psycopg's errors."""
    now = _now(db, following, places)
    again: dict[int, str] = {}
    warnings: list[str] = []
    for oid, (storage, attached) in now.items():
        followed, there = following.tables[oid], places[oid]
        if there.storage is not None and there.storage.publication != storage.publication:
            raise _made_anew(following, followed)
        why = None if there.is_unbegun else _difference(there.storage, storage, attached)
        if why is not None:
            _take(following, followed, why, again, warnings)
    return Found({oid: storage for oid, (storage, _) in now.items()}, again, warnings)


def look_at_others(
    following: Following, added: Collection[Followed], before: Collection[str]
) -> Found:
    """Tables that begin now under a name that another one had: what was given of that one goes. before: the names of all
    that were followed. Raises as `look`."""
    again: dict[int, str] = {}
    warnings: list[str] = []
    for followed in added:
        if followed.stream is None or followed.name in before:
            _take(following, followed, ANOTHER, again, warnings)
    return Found({}, again, warnings)


def _take(
    following: Following, followed: Followed, why: str, again: dict[int, str], warnings: list[str]
) -> None:
    """Note what is done with a table that has other rows."""
    if not following.copies:
        # Rows that were never given must not come now.
        warnings.append(only_changes(followed.name, why))
    elif followed.not_truncated is not None:
        raise _error(following, followed, why, followed.not_truncated)
    else:
        again[followed.table.oid] = is_read_again(followed.name, why)


def _difference(before: Storage | None, now: Storage, attached: set[int]) -> str | None:
    """Why the rows are others than those that were given. None: they are not."""
    if before is None:
        return None  # an earlier version has written the place
    if before.published != now.published:
        return _PUBLICATION
    if before.files.keys() - now.files.keys() or attached - before.files.keys():
        return _PARTITIONS
    is_new = any(now.files[part] != file for part, file in before.files.items())
    return _WRITTEN if is_new and before.columns != now.columns else None


def _made_anew(following: Following, followed: Followed) -> SystemError_:
    assert following.names is not None
    return SystemError_(
        f"publication '{following.names.publication}' of {following.names.server} was dropped and made again, and the log "
        "lacks the changes of the time between",
        code="E0605",
        step=followed.reading.step,
        help=FRESH,
    )


def _error(following: Following, followed: Followed, why: str, step: str) -> DataError:
    label = f"{followed.reading.relation.label} in {following.server.label}"
    return has_other_rows(label, why, step, followed.reading.step)
