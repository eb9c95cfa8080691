"""Lookups that are asked key by key: which keys of a batch, what is remembered, for how long.

Always true: a system is asked for a key at most once per batch; NULL keys are never asked for; a
key that was not found is remembered like the others.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from functools import partial
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.engine.away import Away
from dataflare.errors import DataError, DataFlareError, InternalError, Retry
from dataflare.model.halves import takes_back
from dataflare.operators.lookup import Lookup
from dataflare.resilience.breaker import HeldBack
from dataflare.resilience.retry import Retrying
from dataflare.sdk.lookup import KeyedLookup, LookupConnector
from dataflare.sdk.processor import Refused
from dataflare.sdk.runtime import current
from dataflare.state.index import KeyIndex

_POLL_S = 1.0
_NO_ERRORS: Mapping[int, DataError] = {}
_UNANSWERED_S, _UNANSWERED_MAX = 5.0, 10_000
"""So long an optional lookup does not ask again for a key without an answer, and of so many keys it knows that."""


class _Old(Struct):
    """Rows that are remembered for longer than `ttl`, and their keys: a key may have none."""

    keys: pl.DataFrame
    rows: pl.DataFrame


class Answers(Struct):
    """table, index: the rows for the keys of a batch. refused: rows whose key has values that cannot be read, without those
    that take a row back. is_refused: all of them, by their number in the batch; None for none. stale: how many rows of the batch have answers older than the cache's
    ttl, because the system was held back. lacking: how many have no answer, because the system of an optional lookup is
    away."""

    table: pl.DataFrame
    index: KeyIndex
    refused: list[Refused]
    is_refused: pl.Series | None = None
    stale: int = 0
    lacking: int = 0


class AskedTable:
    """The rows of a keyed lookup as a table per batch. Asks on the event loop it was made on; called
    from other threads, several at a time.

    What is remembered is held by number: the columns `k0`, `k1` ... of a key and the time it was
    asked at, the least recently used first, and the rows themselves.
    """

    def __init__(
        self,
        lookup: Lookup,
        live: KeyedLookup | None,
        retrying: Retrying,
        clock: Callable[[], float] = time.monotonic,
        away: Away | None = None,
        opening: Callable[[], Awaitable[KeyedLookup]] | None = None,
    ) -> None:
        """live: None where it could not be opened, because its system is away. away: of an optional lookup."""
        self._away, self._opening = away, opening
        self._lookup, self._live, self._retrying, self._clock = lookup, live, retrying, clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._hidden = current().hidden
        self._cache = lookup.cache
        self._schema = lookup.table.schema.select(lookup.table_columns).to_polars()
        self._keys = list(dict.fromkeys(lookup.remote_keys))
        key_types = {name: self._schema[name] for name in self._keys}
        self._asked_at = pl.DataFrame(
            schema={f"k{i}": type_ for i, type_ in enumerate(key_types.values())}
            | {"at": pl.Float64}
        )
        self._rows = pl.DataFrame(schema=self._schema)
        self._unanswered = pl.DataFrame(schema=key_types | {"at": pl.Float64})

    def answers(self, frame: pl.DataFrame) -> Answers:
        """What the system has for the keys of a batch. Waits for the system."""
        pairs = dict(zip(self._lookup.remote_keys, self._lookup.keys, strict=True))
        wanted = self._remote(frame).drop_nulls().unique(maintain_order=True)
        if self._hidden is not None and {*self._lookup.keys} & self._hidden.columns:
            self._hidden.add(wanted, wanted.columns)
        asked, known = self._split(wanted)
        refused: list[Refused] = []
        is_refused: pl.Series | None = None
        stale = lacking = 0
        if asked.height:
            wanted = asked
            asked, old, got, errors = self._ask(asked)
            if self._away is not None:
                unasked = wanted.join(pl.concat([asked, old.keys]), on=self._keys, how="anti")
                lacking = self._remote(frame).join(unasked, on=self._keys, how="semi").height
            known = pl.concat([known, old.rows])
            if old.keys.height:
                stale = self._remote(frame).join(old.keys, on=self._keys, how="semi").height
            got = self._conformed(got)
            for place, error in errors.items():
                has_key = frame.select(self._has_key(pairs, asked[[place]])).to_series()
                rows = frame.filter(has_key & ~takes_back(frame))
                if rows.height:
                    refused.append(Refused(rows, error.message, error.code))
                is_refused = has_key if is_refused is None else is_refused | has_key
            if errors:
                asked = asked.filter(~pl.int_range(asked.height, eager=True).is_in([*errors]))
            self._remember(asked, got)
            known = pl.concat([known, got])
        index = KeyIndex(known, self._lookup.remote_keys)
        return Answers(known, index, refused, is_refused, stale, lacking)

    def _ask(
        self, keys: pl.DataFrame
    ) -> tuple[pl.DataFrame, _Old, pl.DataFrame, Mapping[int, DataError]]:
        """Ask the system, or use what is remembered where it is held back and the step says so: a key that was never
        asked for waits. Gives the keys that were asked for, what was remembered of the others, and the system's answer."""
        nothing = _Old(keys.clear(), self._rows.clear())
        is_stale = self._retrying.fallback == "stale"
        if self._away is not None:
            asked, got, errors = self._try(keys, self._away)
            rest = keys.join(asked, on=self._keys, how="anti")
            return asked, self._old(rest)[1] if is_stale and rest.height else nothing, got, errors
        try:
            return keys, nothing, *self._wait_for(keys, waits=not is_stale)
        except HeldBack:
            unknown, old = self._old(keys)
            if not unknown.height:
                return nothing.keys, old, nothing.rows, {}
            return unknown, old, *self._wait_for(unknown)

    def _old(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, _Old]:
        """The keys that were never asked for, and what is remembered of the others."""
        unknown, rows = self._split(keys, any_age=True)
        return unknown, _Old(keys.join(unknown, on=self._keys, how="anti"), rows)

    def _try(
        self, keys: pl.DataFrame, away: Away
    ) -> tuple[pl.DataFrame, pl.DataFrame, Mapping[int, DataError]]:
        """Ask the system of an optional lookup. Gives the keys that it answered, and its answer. One that fails for some
        keys only is not away: as long as more are answered it is asked again, and these few are left out for a while."""
        answered, nothing = keys.clear(), self._rows.clear()
        recent, before = self._without_answer(keys)
        keys = keys.join(recent, on=self._keys, how="anti")
        if not keys.height or not away.may_ask():
            return answered, nothing, {}
        once = away.is_away or bool(before.height)
        while True:
            is_held = False
            try:
                got = self._wait_for(keys, waits=False, once=once)
            except HeldBack:
                reason, is_held = "its circuit breaker is open", True
            except DataFlareError as error:
                if error.retry is Retry.NEVER:
                    away.given_up()
                    raise
                reason = error.message
            else:
                away.succeeded()
                return keys, *got
            kept = keys.filter(self._answered(keys))
            if is_held or kept.height <= answered.height:
                break
            answered = kept
        rows, errors = nothing, _NO_ERRORS
        if kept.height:
            try:
                rows, errors = self._taken(kept)
            except (
                DataFlareError
            ) as error:  # another batch has taken an answer, and the key failed again
                if error.retry is Retry.NEVER:
                    away.given_up()
                    raise
                kept = kept.clear()
        rest = keys.join(kept, on=self._keys, how="anti")
        if not is_held and 2 * kept.height >= keys.height:
            away.answered_in_part(reason)
        elif not is_held and before.height == keys.height:
            away.given_up()
        else:
            away.failed(reason)
            return kept, rows, errors
        self._note_without_answer(rest)
        return kept, rows, errors

    def _without_answer(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Those of the keys to which a system that answered others had no answer just now, and those to which it had none
        before that."""
        with self._lock:
            known = self._unanswered
        if not known.height:
            return keys.clear(), keys.clear()
        is_recent = pl.col("at") > self._clock() - _UNANSWERED_S
        recent, before = (
            keys.join(known.filter(each), on=self._keys, how="semi")
            for each in (is_recent, ~is_recent)
        )
        return recent, before

    def _note_without_answer(self, keys: pl.DataFrame) -> None:
        new = keys.select(self._keys).with_columns(pl.lit(self._clock(), pl.Float64).alias("at"))
        with self._lock:
            others = self._unanswered.join(keys, on=self._keys, how="anti")
            self._unanswered = pl.concat([others, new]).tail(_UNANSWERED_MAX)

    def _remote(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The keys of a batch, as the system has them."""
        pairs = dict(zip(self._lookup.remote_keys, self._lookup.keys, strict=True))
        return frame.select(
            pl.col(key).cast(self._schema[remote]).alias(remote) for remote, key in pairs.items()
        )

    def _has_key(self, pairs: Mapping[str, str], key: pl.DataFrame) -> pl.Expr:
        """Which rows of a batch have this key. pairs: the batch's column of each part. key: its only row. Never NULL."""
        return pl.all_horizontal(
            (pl.col(column).cast(self._schema[remote]) == pl.lit(key[remote]).first())
            for remote, column in pairs.items()
        ).fill_null(False)

    async def aclose(self) -> None:
        if self._live is not None:
            await self._live.aclose()

    def _wait_for(
        self, keys: pl.DataFrame, *, waits: bool = True, once: bool = False
    ) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        ask = partial(self._asking, keys)
        if once:
            call = self._retrying.once(ask, waits=waits)
        else:
            progress = lambda: int(self._answered(keys).sum())  # noqa: E731
            call = self._retrying.call(ask, progress, waits=waits)
        return self._result_of(call)

    def _taken(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        """What was kept of the answers for these keys: nothing is asked, and so no breaker is in the way."""
        return self._result_of(self._asking(keys))

    def _result_of(
        self, call: Coroutine[Any, Any, tuple[pl.DataFrame, Mapping[int, DataError]]]
    ) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        asking = asyncio.run_coroutine_threadsafe(call, self._loop)
        while True:
            try:
                return asking.result(_POLL_S)
            except DataFlareError as error:
                raise error.at(step=self._lookup.step) from error.__cause__
            except concurrent.futures.TimeoutError:
                if asking.done():
                    raise
                if self._loop.is_closed():
                    raise InternalError("the run has ended while a lookup was asked") from None

    async def _asking(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        if self._live is None:
            assert self._opening is not None
            self._live = await self._opening()
        return await self._live.ask(keys)

    def _answered(self, keys: pl.DataFrame) -> pl.Series:
        if self._live is None:
            return pl.repeat(False, keys.height, dtype=pl.Boolean, eager=True)
        return self._live.answered(keys)

    def _conformed(self, got: pl.DataFrame) -> pl.DataFrame:
        if got.schema != self._schema:
            raise InternalError(
                f"the lookup of step '{self._lookup.step}' gave other columns than it said",
                notes=[f"said: {dict(self._schema)}", f"gave: {dict(got.schema)}"],
            )
        return got

    def _split(
        self, wanted: pl.DataFrame, *, any_age: bool = False
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The keys to ask for, and the rows that are remembered of the others. any_age: also longer than `ttl`."""
        nothing = self._rows.clear()
        if self._cache is None:
            return wanted, nothing
        numbered = [f"k{i}" for i in range(len(self._keys))]
        with self._lock:
            valid, rows = self._asked_at, self._rows
            if self._cache.ttl is not None and not any_age:
                valid = valid.filter(pl.col("at") > self._clock() - self._cache.ttl)
            asked = wanted.join(
                valid, left_on=self._keys, right_on=numbered, how="anti", maintain_order="left"
            )
            fresh = wanted.join(asked, on=self._keys, how="anti")
            if fresh.height:
                self._used(fresh, numbered)
        return asked, rows.join(fresh, on=self._keys, how="semi")

    def _used(self, keys: pl.DataFrame, numbered: list[str]) -> None:
        """Put keys behind all others, so that they go last. Expired keys stay: they hold the place
        of their rows until both go."""
        others, used = (
            self._asked_at.join(
                keys, left_on=numbered, right_on=self._keys, how=how, maintain_order="left"
            )
            for how in ("anti", "semi")
        )
        self._asked_at = pl.concat([others, used])

    def _remember(self, asked: pl.DataFrame, got: pl.DataFrame) -> None:
        if self._cache is None:
            return
        names = {name: f"k{i}" for i, name in enumerate(self._keys)}
        new = asked.select(self._keys).rename(names)
        new = new.with_columns(pl.lit(self._clock(), pl.Float64).alias("at"))
        numbered = list(names.values())
        with self._lock:
            old = self._rows.join(asked, on=self._keys, how="anti")
            kept = self._asked_at.join(new, on=numbered, how="anti", maintain_order="left")
            self._asked_at = pl.concat([kept, new]).tail(self._cache.size)
            rows = pl.concat([old, got])
            if kept.height + new.height > self._cache.size:
                rows = rows.join(self._asked_at, left_on=self._keys, right_on=numbered, how="semi")
            self._rows = rows


async def open_asked(
    lookup: Lookup, retrying: Retrying, degraded: MutableMapping[str, str]
) -> AskedTable:
    """Connect a keyed lookup. degraded: by step that gives less than it should, why."""
    connector = lookup.table.source
    assert isinstance(connector, LookupConnector)
    schema = lookup.table.schema.select(lookup.table_columns)
    opening = partial(connector.open, lookup.remote_keys, schema)
    if not lookup.optional:
        return AskedTable(lookup, await retrying.call(opening), retrying)
    away, live = Away(lookup.step, degraded), None
    try:
        live = await retrying.call(opening, waits=False)
    except DataFlareError as error:
        if error.retry is Retry.NEVER:
            raise
        away.failed(error.message)
    return AskedTable(lookup, live, retrying, away=away, opening=opening)
