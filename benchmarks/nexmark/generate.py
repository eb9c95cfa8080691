"""Nexmark's events, from a seed: people, auctions and bids with its proportions, hot keys and rate.

As the generator of nexmark/nexmark (2025-12) makes them: of 50 events one is a person, three are auctions and 46 are
bids; half of the bids go to the auction of the moment, three quarters come from the bidder of the moment; a time step is
1e6 / rate microseconds, so the rate decides how many windows there are. What is left out is the random extra text,
except for the sizes given there.

Random numbers are DuckDB's hash of the event's number and a name, so every process makes the same events.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

FIRST_ID = 1000
BASE = "timestamptz '2026-01-01 00:00:00+00'"

_EVENTS = """
create or replace temp table events as
select n, n // 50 as epoch, n % 50 as place, {base} + to_microseconds(cast(n * {step_us} as bigint)) as "at"
from range({events}) r(n)
"""
_CHANCE = "((hash(n, {seed}, '{name}') % 1000000007) / 1000000007.0)"
_BELOW = "cast(hash(n, {seed}, '{name}') % cast(greatest({most}, 1) as bigint) as bigint)"

_PEOPLE = """
select {first} + epoch as id,
    'person ' || below('name', 100000) as name,
    'user' || below('mail', 100000) || '@example.com' as email,
    lpad(cast(below('card', 10000) as varchar), 4, '0') as card,
    ['Phoenix', 'Los Angeles', 'San Francisco', 'Boise', 'Portland', 'Bend', 'Redmond', 'Seattle', 'Kent', 'Cheyenne'][1 + below('city', 10)] as city,
    ['AZ', 'CA', 'ID', 'OR', 'WA', 'WY'][1 + below('state', 6)] as state,
    "at"
from events where place = 0
"""

_AUCTIONS = """
select {first} + epoch * 3 + place - 1 as id,
    'item ' || below('item', 100000) as item,
    round(pow(10, chance('initial') * 6) * 100)::bigint as initial_bid,
    round(pow(10, chance('reserve') * 6) * 100)::bigint as reserve,
    "at" + to_microseconds(1000 * (1 + below('length', cast(2 * 1666 * {step_us} / 1000 as bigint)))) as expires,
    {first} + case when chance('hot seller') < 0.75 then (epoch // 100) * 100
        else greatest(0, epoch - 1000 + below('seller', least(epoch, 1000) + 10)) end as seller,
    10 + below('category', 5) as category,
    "at"
from events where place between 1 and 3
"""

_BIDS = """
select {first} + case when chance('hot auction') < 0.5 then ((epoch * 3 + 2) // 100) * 100
        else greatest(0, epoch * 3 + 2 - 100 + below('auction', least(epoch * 3 + 2, 100) + 10)) end as auction,
    {first} + case when chance('hot bidder') < 0.75 then (epoch // 100) * 100 + 1
        else greatest(0, epoch - 1000 + below('bidder', least(epoch, 1000) + 10)) end as bidder,
    round(pow(10, chance('price') * 6) * 100)::bigint as price,
    case when chance('hot channel') < 0.5 then ['Google', 'Facebook', 'Baidu', 'Apple'][1 + below('channel', 4)]
        else 'channel-' || below('channel', 10000) end as channel,
    'https://www.nexmark.com/' || below('dir1', 1000) || '/' || below('dir2', 1000) || '/item.htm?query=1' as url,
    "at"
from events where place >= 4
"""


def generate(folder: Path, *, events: int, rate: int, seed: int = 7) -> None:
    """Write people.parquet, auctions.parquet and bids.parquet, each in the order of time, and side.parquet, q13's
    table of values. rate: events in a second of event time."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "events": events,
        "seed": seed,
        "step_us": 1_000_000 / rate,
        "base": BASE,
        "first": FIRST_ID,
    }
    with duckdb.connect() as db:
        db.execute("set timezone = 'UTC'")
        db.execute(_EVENTS.format(**facts))
        for name, query in (("people", _PEOPLE), ("auctions", _AUCTIONS), ("bids", _BIDS)):
            target = folder / f"{name}.parquet"
            rows = _with_chance(query.format(**facts), seed)
            db.execute(
                f"copy ({rows} order by n) to '{target}' (format parquet, row_group_size 100000)"
            )
        side = "select range as key, 'value ' || range as value from range(10000)"
        db.execute(f"copy ({side}) to '{folder / 'side.parquet'}' (format parquet)")


def _with_chance(query: str, seed: int) -> str:
    """Spell `chance('name')`, a number in [0, 1), and `below('name', most)`, one in [0, most), as hashes."""
    query = re.sub(r"chance\('([^']*)'\)", lambda m: _CHANCE.format(seed=seed, name=m[1]), query)
    below = re.compile(r"below\('([^']*)', ((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)")
    return below.sub(lambda m: _BELOW.format(seed=seed, name=m[1], most=m[2]), query)
