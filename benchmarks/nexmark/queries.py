"""The queries: a workflow each, and what DuckDB makes of the same events.

Left out: q6 (no engine's SQL has it), q10 (a file sink) and q21 (as q22, text alone). q12 works by the clock, so only its sum over
windows is compared. q14 counts a letter in the URL, because the events have no extra text. What Flink's queries do over a stream without end, with retractions, is done here at the end of the
input, where a query has no window.
"""

from __future__ import annotations

from msgspec import Struct

SOURCES = {
    "bids": "bids: {{type: file, config: {{path: '{folder}/bids.parquet'}}, event_time: {{column: at, max_future: null}}}}",
    "auctions": "auctions: {{type: file, config: {{path: '{folder}/auctions.parquet'}}, event_time: {{column: at, max_future: null}}}}",
    "people": "people: {{type: file, config: {{path: '{folder}/people.parquet'}}, event_time: {{column: at, max_future: null}}}}",
    "clocked": "clocked: {{type: file, config: {{path: '{folder}/bids.parquet'}}, event_time: {{column: now(), max_future: null}}}}",
    "side": "side: {{type: file, config: {{path: '{folder}/side.parquet'}}}}",
}


class Query(Struct, frozen=True):
    """steps: the transformations, as YAML; the last one is `out`. sql: the same over tables of these names, with the
    same columns. sources: what it reads. streaming: windows close while rows come."""

    steps: str
    sql: str
    sources: tuple[str, ...] = ("bids",)
    streaming: bool = False


def workflow(name: str, folder: str, target: str, *, checkpoint: str = "10s") -> str:
    """The workflow file of a query. target: the destination, as YAML of one line."""
    query = QUERIES[name]
    sources = "\n".join(f"  {SOURCES[each].format(folder=folder)}" for each in query.sources)
    steps = "\n".join(f"  {line}" for line in query.steps.strip().splitlines())
    mode = "streaming" if query.streaming else "batch"
    return (
        f'name: {name}\nversion: "1.0"\nsettings: {{mode: {mode}, checkpoint: {{interval: {checkpoint}}}}}\n'
        f"sources:\n{sources}\ntransformations:\n{steps}\ndestinations:\n  target: {target}\n"
    )


_TEN = "to_microseconds(10000000)"
_WINDOW = 'time_bucket(interval 10 second, "at")'

QUERIES: dict[str, Query] = {
    "q0": Query(
        "out: {type: map, inputs: [bids], config: {select: [auction, bidder, price, at]}}",
        'select auction, bidder, price, "at" from bids',
    ),
    "q1": Query(
        "out: {type: map, inputs: [bids], config: {derive: {price: 'price * 0.908'}, select: [auction, bidder, price, at]}}",
        'select auction, bidder, price * 0.908 as price, "at" from bids',
    ),
    "q2": Query(
        """
some: {type: filter, inputs: [bids], config: {condition: auction % 123 = 0}}
out: {type: map, inputs: [some], config: {select: [auction, price]}}
""",
        "select auction, price from bids where auction % 123 = 0",
    ),
    "q3": Query(
        """
wanted: {type: filter, inputs: [auctions], config: {condition: category = 10}}
near: {type: filter, inputs: [people], config: {condition: "state IN ('OR', 'ID', 'CA')"}}
lots: {type: map, inputs: [wanted], config: {select: [id, seller]}}
sellers: {type: map, inputs: [near], config: {rename: {id: person}, select: [person, name, city, state]}}
out: {type: join, inputs: [lots, sellers], config: {kind: inner, on: {seller: person}}}
""",
        """select a.id, a.seller, p.name, p.city, p.state from auctions a join people p on a.seller = p.id
where a.category = 10 and p.state in ('OR', 'ID', 'CA')""",
        ("auctions", "people"),
    ),
    "q4": Query(
        """
lots: {type: map, inputs: [auctions], config: {rename: {at: opened}, select: [id, category, opened, expires]}}
offers: {type: map, inputs: [bids], config: {select: [auction, price, at]}}
pairs: {type: join, inputs: [lots, offers], config: {kind: inner, on: {id: auction}}}
valid: {type: filter, inputs: [pairs], config: {condition: at BETWEEN opened AND expires}}
final: {type: aggregate, inputs: [valid], config: {group_by: [id, category], measures: {final: max(price)}}}
out: {type: aggregate, inputs: [final], config: {group_by: [category], measures: {average: avg(final)}}}
""",
        """select category, avg(final) as average from (select a.id, a.category, max(b.price) as final
from auctions a join bids b on a.id = b.auction and b."at" between a."at" and a.expires group by all) group by category""",
        ("auctions", "bids"),
    ),
    "q5": Query(
        """
counts: {type: window, inputs: [bids], config: {kind: sliding, size: 10s, slide: 2s, group_by: [auction], measures: {num: count(*)}}}
most: {type: aggregate, inputs: [counts], config: {group_by: [window_start], measures: {most: max(num)}}}
both: {type: join, inputs: [counts, most], config: {kind: inner, on: [window_start]}}
hot: {type: filter, inputs: [both], config: {condition: num >= most}}
out: {type: map, inputs: [hot], config: {select: [auction, window_start, num]}}
""",
        f"""with counts as (select auction, s as window_start, count(*) as num from bids,
lateral (select unnest(generate_series(time_bucket(interval 2 second, "at") - interval 8 second, time_bucket(interval 2 second, "at"), interval 2 second)) as s)
group by all) select auction, window_start, num from counts qualify num = max(num) over (partition by window_start) -- {_TEN}""",
        streaming=True,
    ),
    "q7": Query(
        """
highest: {type: window, inputs: [bids], config: {kind: tumbling, size: 10s, measures: {price: max(price)}}}
offers: {type: map, inputs: [bids], config: {derive: {start: "time_bucket(INTERVAL '10 seconds', at)"}, rename: {price: offer}, select: [auction, bidder, offer, start]}}
out: {type: join, inputs: [offers, highest], config: {kind: inner, on: {offer: price, start: window_start}}}
chosen: {type: map, inputs: [out], config: {select: [auction, bidder, offer, start]}}
""",
        f"""select auction, bidder, price as offer, {_WINDOW} as start from bids
qualify price = max(price) over (partition by {_WINDOW})""",
        streaming=True,
    ),
    "q8": Query(
        """
newcomers: {type: window, inputs: [people], config: {kind: tumbling, size: 10s, group_by: [id, name], measures: {n: count(*)}}}
sellers: {type: window, inputs: [auctions], config: {kind: tumbling, size: 10s, group_by: [seller], measures: {lots: count(*)}}}
both: {type: join, inputs: [newcomers, sellers], config: {kind: inner, on: {id: seller, window_start: window_start}, suffix: _of_lots}}
out: {type: map, inputs: [both], config: {select: [id, name, window_start]}}
""",
        f"""select distinct p.id, p.name, p.start as window_start
from (select *, {_WINDOW} as start from people) p join (select *, {_WINDOW} as start from auctions) a
on p.id = a.seller and p.start = a.start""",
        ("people", "auctions"),
        streaming=True,
    ),
    "q9": Query(
        """
lots: {type: map, inputs: [auctions], config: {rename: {at: opened}, select: [id, item, opened, expires]}}
offers: {type: map, inputs: [bids], config: {select: [auction, bidder, price, at]}}
pairs: {type: join, inputs: [lots, offers], config: {kind: inner, on: {id: auction}}}
valid: {type: filter, inputs: [pairs], config: {condition: at BETWEEN opened AND expires}}
best: {type: deduplicate, inputs: [valid], config: {key: [id], keep: first, order_by: [{column: price, descending: true}, at]}}
out: {type: map, inputs: [best], config: {select: [id, item, bidder, price, at]}}
""",
        """select a.id, a.item, b.bidder, b.price, b."at" from auctions a join bids b on a.id = b.auction and b."at" between a."at" and a.expires
qualify row_number() over (partition by a.id order by b.price desc, b."at") = 1""",
        ("auctions", "bids"),
    ),
    "q11": Query(
        "out: {type: window, inputs: [bids], config: {kind: session, gap: 10s, group_by: [bidder], measures: {n: count(*)}}}",
        """select bidder, min("at") as window_start, max("at") + interval 10 second as window_end, count(*) as n from (
select *, sum(new) over (partition by bidder order by "at" rows unbounded preceding) as session from (
select *, case when "at" - lag("at") over (partition by bidder order by "at") <= interval 10 second then 0 else 1 end as new from bids))
group by bidder, session""",
        streaming=True,
    ),
    "q12": Query(
        """
counts: {type: window, inputs: [clocked], config: {kind: tumbling, size: 10s, group_by: [bidder], measures: {n: count(*)}}}
out: {type: aggregate, inputs: [counts], config: {group_by: [bidder], measures: {n: sum(n)}}}
""",
        "select bidder, count(*) as n from bids group by bidder",
        ("clocked",),
        streaming=True,
    ),
    "q13": Query(
        """
keyed: {type: map, inputs: [bids], config: {derive: {place: auction % 10000}, select: [auction, bidder, price, at, place]}}
both: {type: lookup, inputs: [keyed], config: {source: side, mapping: {key: place, remote_key: key, fields: [value]}, on_miss: drop}}
out: {type: map, inputs: [both], config: {select: [auction, bidder, price, at, value]}}
""",
        """select b.auction, b.bidder, b.price, b."at", s.value from bids b join side s on b.auction % 10000 = s.key""",
        ("bids", "side"),
    ),
    "q14": Query(
        """
priced: {type: map, inputs: [bids], config: {derive: {price: price * 0.908}}}
wanted: {type: filter, inputs: [priced], config: {condition: price > 1000000 AND price < 50000000}}
out:
  type: map
  inputs: [wanted]
  config:
    derive:
      kind: "CASE WHEN hour(at) BETWEEN 8 AND 18 THEN 'dayTime' WHEN hour(at) <= 6 OR hour(at) >= 20 THEN 'nightTime' ELSE 'otherTime' END"
      letters: "length(url) - length(replace(url, 'c', ''))"
    select: [auction, bidder, price, kind, at, letters]
""",
        """select auction, bidder, price * 0.908 as price, case when hour("at") between 8 and 18 then 'dayTime'
when hour("at") <= 6 or hour("at") >= 20 then 'nightTime' else 'otherTime' end as kind, "at",
length(url) - length(replace(url, 'c', '')) as letters from bids where price * 0.908 > 1000000 and price * 0.908 < 50000000""",
    ),
    "q15": Query(
        """
days: {type: map, inputs: [bids], config: {derive: {day: "strftime(at, '%Y-%m-%d')"}, select: [day, price, bidder, auction]}}
out:
  type: aggregate
  inputs: [days]
  config:
    group_by: [day]
    measures:
      total: count(*)
      low: count(*) FILTER (price < 10000)
      middle: count(*) FILTER (price >= 10000 AND price < 1000000)
      high: count(*) FILTER (price >= 1000000)
      bidders: count(DISTINCT bidder)
      auctions: count(DISTINCT auction)
""",
        """select strftime("at", '%Y-%m-%d') as day, count(*) as total, count(*) filter (price < 10000) as low,
count(*) filter (price >= 10000 and price < 1000000) as middle, count(*) filter (price >= 1000000) as high,
count(distinct bidder) as bidders, count(distinct auction) as auctions from bids group by day""",
    ),
    "q16": Query(
        """
days: {type: map, inputs: [bids], config: {derive: {day: "strftime(at, '%Y-%m-%d')", minute: "strftime(at, '%H:%M')"}, select: [day, minute, channel, price, bidder]}}
out: {type: aggregate, inputs: [days], config: {group_by: [channel, day], measures: {minute: max(minute), total: count(*), bidders: count(DISTINCT bidder)}}}
""",
        """select channel, strftime("at", '%Y-%m-%d') as day, max(strftime("at", '%H:%M')) as minute, count(*) as total,
count(distinct bidder) as bidders from bids group by all""",
    ),
    "q17": Query(
        """
days: {type: map, inputs: [bids], config: {derive: {day: "strftime(at, '%Y-%m-%d')"}, select: [day, auction, price]}}
out:
  type: aggregate
  inputs: [days]
  config:
    group_by: [auction, day]
    measures: {total: count(*), low: count(*) FILTER (price < 10000), least: min(price), most: max(price), mean: avg(price), paid: sum(price)}
""",
        """select auction, strftime("at", '%Y-%m-%d') as day, count(*) as total, count(*) filter (price < 10000) as low,
min(price) as least, max(price) as most, avg(price) as mean, sum(price)::bigint as paid from bids group by all""",
    ),
    "q18": Query(
        """
last: {type: deduplicate, inputs: [bids], config: {key: [bidder, auction], keep: last, order_by: at}}
out: {type: map, inputs: [last], config: {select: [auction, bidder, price, at]}}
""",
        """select auction, bidder, price, "at" from bids
qualify row_number() over (partition by bidder, auction order by "at" desc) = 1""",
    ),
    "q19": Query(
        """
best:
  type: aggregate
  inputs: [bids]
  config:
    group_by: [auction]
    measures: {bid: "top({'price': price, 'bidder': bidder, 'at': at}, price, 10)"}
each: {type: explode, inputs: [best], config: {column: bid}}
out: {type: map, inputs: [each], config: {derive: {price: bid.price, bidder: bid.bidder, at: bid.at}, drop: [bid]}}
""",
        # Of bids with the same price any may be the tenth.
        """select auction, price from bids qualify row_number() over (partition by auction order by price desc) <= 10""",
    ),
    "q20": Query(
        """
wanted: {type: filter, inputs: [auctions], config: {condition: category = 10}}
lots: {type: map, inputs: [wanted], config: {select: [id, item, seller, category]}}
offers: {type: map, inputs: [bids], config: {select: [auction, bidder, price]}}
out: {type: join, inputs: [offers, lots], config: {kind: inner, on: {auction: id}}}
""",
        """select b.auction, b.bidder, b.price, a.item, a.seller, a.category from bids b join auctions a on b.auction = a.id
where a.category = 10""",
        ("auctions", "bids"),
    ),
    "q22": Query(
        """
out:
  type: map
  inputs: [bids]
  config:
    derive: {dir1: "split_part(url, '/', 4)", dir2: "split_part(url, '/', 5)", dir3: "split_part(url, '/', 6)"}
    select: [auction, bidder, price, channel, dir1, dir2, dir3]
""",
        """select auction, bidder, price, channel, split_part(url, '/', 4) as dir1, split_part(url, '/', 5) as dir2,
split_part(url, '/', 6) as dir3 from bids""",
    ),
}
