"""A source of which one reader gives the rows of many tables, as a reader of a server's log does.

Always true: a table of many is described by a source of that table alone, so it has the same columns, key and errors. One
connection asks for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ClassVar, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from dataflare.errors import ConfigError, DataFlareError, did_you_mean, raise_all
from dataflare.sdk.catalog import chosen, wanted
from dataflare.sdk.sql.changes import SupportsChanges
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.relation import Relation
from dataflare.sdk.sql.source import SupportsTables
from dataflare.sdk.streams import SCHEMA, Stream, TableName, stream_names, table_schema
from dataflare.sdk.threads import in_thread

R = TypeVar("R", bound=Relation[Any])


class NewTables(Struct, frozen=True):
    """names: of the streams that can be taken in. warnings: about tables that cannot."""

    names: Sequence[str] = ()
    warnings: Sequence[str] = ()


class TableStreams(SupportsChanges[R], SupportsTables[R]):
    """A source that gives streams where its config has `tables` and it follows its server's log."""

    table_options: ClassVar[frozenset[str]] = frozenset({"columns", SCHEMA})
    """The options that `per_table` may have where one reader gives all tables."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._members: dict[str, Self] | None = None
        self._names: dict[str, TableName] = {}
        self._refused: set[str] = set()
        """New tables that cannot be followed, as users were told."""

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def log_name(self) -> str:
        """Of its table, as positions have it. Called after `look`."""

    @abstractmethod
    def tables_begun(self, position: Mapping[str, Any]) -> Set[str]:
        """The tables, as `log_name` gives them, that a position goes on with."""

    def check_log(self, db: Any) -> None:
        """Raise an error if the server's log cannot be followed. Called once, before its tables are checked."""

    def find_table(self, db: Any) -> R:
        """As `find_in`, without `check_log`."""
        return self.find_in(db)

    # -- the source --------------------------------------------------------------------------------

    def gives_new(self) -> bool:
        """Whether columns that come later are told."""
        return self._columns is None and self.config.columns is None and self.contract is None

    def streams_begun(self, position: Mapping[str, Any]) -> Set[str]:
        begun = self.tables_begun(position) if position else frozenset()
        members = (self._members or {}).items()
        return {stream for stream, each in members if each.log_name() in begun}

    async def followed_members(self) -> list[tuple[str | None, Self]]:
        """The sources of the tables whose changes are read, each with the name of its stream; None where this is one
        table."""
        if not self.gives_streams():
            await self.look()
            return [(None, self)]
        members = await self.members()
        return [(name, each) for name, each in members.items() if name in self.streams_read]

    def gives_streams(self) -> bool:
        return self.config.tables is not None and self.log is not None

    async def members(self) -> Mapping[str, Self]:
        """By stream, a source of that table alone, which has found its relation. It is asked, and never opened. Raises
        one error or ManyErrors for tables that cannot be read."""
        if self._members is None:
            with at_step(self.context.step):
                self._members = await in_thread(self.with_db, "its tables", self._find_members)
        return self._members

    async def validate(self) -> None:
        if self.gives_streams():
            await self.members()
        else:
            await super().validate()

    async def streams(self) -> Sequence[Stream] | None:
        if not self.gives_streams():
            return None
        return [
            await _stream(name, self._names[name], member)
            for name, member in (await self.members()).items()
        ]

    def new_tables(self, db: Any, take: Callable[[R], None] | None = None) -> NewTables:
        """Tables that came while the run goes on. take: called with each that can be followed; it raises an error where it
        cannot after all. Blocking."""
        if self.config.tables is None:
            return NewTables()
        patterns = [str(each) for each in self.config.tables]
        # A pattern may match nothing by now: its table is gone.
        entries, _ = chosen(self.list_tables(db), patterns)
        known = {of.full for of in self._names.values()}
        names = stream_names(entry.of for entry in entries)
        found, warnings = [], []
        for entry in entries:
            if entry.of.full in known or entry.of.full in self._refused:
                continue
            if not self.adds_columns:
                self._refused.add(entry.of.full)
                warnings.append(f"table '{entry.of.full}' is new: the next run takes it in")
                continue
            member = self._member(names[entry.of], {o: entry.config[o] for o in self.unchosen})
            try:
                with self.errors(member.label):
                    member._relation = member.find_table(db)
                    if take is not None:
                        take(member._relation)
            except DataFlareError as error:
                if error.__cause__ is not None and error.code != "E0602":
                    raise
                self._refused.add(entry.of.full)
                what = f"{error.message}; {error.help}" if error.help else error.message
                warnings.append(f"table '{entry.of.full}' is new, and is left out: {what}")
            else:
                found.append(names[entry.of])
        return NewTables(found, warnings)

    def _find_members(self, db: Any) -> dict[str, Self]:
        patterns = [str(each) for each in self.config.tables or ()]
        entries = wanted(self.list_tables(db), patterns, self.context.step)
        names = stream_names(entry.of for entry in entries)
        options = self._options(list(names.values()))
        members, errors = {}, []
        self.check_log(db)
        for entry in entries:
            name = names[entry.of]
            chosen = {option: entry.config[option] for option in self.unchosen}
            members[name] = member = self._member(name, {**chosen, **options.get(name, {})})
            try:
                with at_step(member.context.step), self.errors(member.label):
                    member._relation = member.find_table(db)
                    member.output(member._relation)
            except DataFlareError as error:
                if (
                    error.__cause__ is not None
                ):  # the server's error, and with it the connection's end
                    raise
                errors.append(error)
        raise_all(errors)
        self._names = {name: of for of, name in names.items()}
        return members

    def _member(self, name: str, options: Mapping[str, Any]) -> Self:
        config_of_all = self.config.model_dump(
            exclude_unset=True, exclude={"tables", "per_table"}, warnings=False
        )
        of_config = {key: value for key, value in options.items() if key != SCHEMA}
        try:
            config = type(self.config).model_validate({**config_of_all, **of_config})
        except ValidationError as error:
            first = error.errors()[0]
            option = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"'per_table' of step '{self.context.step}' for '{name}': {option}: {first['msg']}",
                code="E0405",
                step=self.context.step,
                help="write options by table: per_table: {orders: {columns: [id, total]}}",
            ) from None
        member = type(self)(config, replace(self.context, step=f"{self.context.step}.{name}"))
        member.contract = table_schema(options, self.context.step, name)
        member.learned = self.streams_learned.get(name, {})
        member.in_batch, member.adds_columns = self.in_batch, self.adds_columns
        return member

    def _options(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """The options of single tables. Raises ConfigError (E0405) for a table that is not there, and for an option
        that all tables have together."""
        options: Mapping[str, Mapping[str, Any]] = self.config.per_table or {}
        for name, of_table in options.items():
            if name not in names:
                raise ConfigError(
                    f"'per_table' of step '{self.context.step}' names '{name}', which is not one of its tables",
                    code="E0405",
                    step=self.context.step,
                    notes=[f"its tables: {', '.join(names)}"],
                    help=did_you_mean(name, names) or "name one of these",
                )
            for option in of_table:
                if option not in self.table_options:
                    raise ConfigError(
                        f"'per_table' of step '{self.context.step}' for '{name}': one reader gives all tables, so "
                        f"'{option}' is the same for all",
                        code="E0405",
                        step=self.context.step,
                        help=f"a single table may have: {', '.join(sorted(self.table_options))}",
                    )
        return options


async def _stream(name: str, of: TableName, source: SupportsTables[Any]) -> Stream:
    columns, capabilities = await source.schema(), source.capabilities()
    is_given = set(capabilities.key) <= set(columns.names)
    return Stream(
        name,
        of,
        columns,
        capabilities.key if is_given else (),
        changelog=capabilities.changelog,
        deletes_by_key=capabilities.deletes_by_key,
        leaves_out=capabilities.leaves_out,
        declarations=source.declarations(),
    )
