"""Messages of syslog to columns."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.connectors.syslog.parsing import FACILITIES, SEVERITIES, parsed

CAME = dt.datetime(2027, 1, 1, 0, 0, 5, tzinfo=dt.UTC)


def columns(text: str, zone: str = "UTC", came: dt.datetime = CAME) -> dict[str, Any]:
    (row,) = parsed(pl.Series([text]), pl.Series([came]), zone).to_dicts()
    return {name: value for name, value in row.items() if value is not None}


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


NEW, OLD = {"protocol": "rfc5424"}, {"protocol": "rfc3164"}
CASES: list[tuple[str, dict[str, Any]]] = [
    # The examples of RFC 5424, section 6.5.
    ("<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \ufeff'su root' failed",
     {**NEW, "facility": "auth", "severity": "crit", "timestamp": at("2003-10-11T22:14:15.003+00:00"),
      "hostname": "mymachine.example.com", "app_name": "su", "message_id": "ID47",
      "message": "'su root' failed"}),
    ("<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time",
     {**NEW, "facility": "local4", "severity": "notice", "timestamp": at("2003-08-24T12:14:15.000003+00:00"),
      "hostname": "192.0.2.1", "app_name": "myproc", "process_id": "8710", "message": "%% It's time"}),
    ('<165>1 2003-10-11T22:14:15.003Z h evntslog - ID47 [e@1 iut="3" src="A\\"p\\]p\\\\"][p@1 class="high"]',
     {**NEW, "facility": "local4", "severity": "notice", "timestamp": at("2003-10-11T22:14:15.003+00:00"),
      "hostname": "h", "app_name": "evntslog", "message_id": "ID47", "message": "",
      "structured_data": {"e@1": {"iut": "3", "src": 'A"p]p\\'}, "p@1": {"class": "high"}}}),
    ("<13>1 - - - - - -", {**NEW, "facility": "user", "severity": "notice", "message": ""}),
    ('<13>1 - - - - - [a@1 x="1" x="2"][b] two\nlines',
     {**NEW, "facility": "user", "severity": "notice", "message": "two\nlines",
      "structured_data": {"a@1": {"x": ["1", "2"]}, "b": {}}}),
    # The examples of RFC 3164, section 5.4.
    ("<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
     {**OLD, "facility": "auth", "severity": "crit", "timestamp": at("2026-10-11T22:14:15+00:00"),
      "hostname": "mymachine", "app_name": "su", "message": "'su root' failed for lonvick on /dev/pts/8"}),
    ("<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
     {**OLD, "facility": "user", "severity": "notice", "timestamp": at("2026-02-05T17:32:18+00:00"),
      "hostname": "10.0.0.99", "message": "Use the BFG!"}),
    ("Use the BFG!", {"message": "Use the BFG!"}),
    # What programs and relays send.
    ("<78>2026-11-29T08:00:00.123456+01:00 web CRON[12]: (root) CMD",
     {**OLD, "facility": "cron", "severity": "info", "timestamp": at("2026-11-29T07:00:00.123456+00:00"),
      "hostname": "web", "app_name": "CRON", "process_id": "12", "message": "(root) CMD"}),
    ("<30>Nov 29 08:00:00 sshd[77]: hello",
     {**OLD, "facility": "daemon", "severity": "info", "timestamp": at("2026-11-29T08:00:00+00:00"),
      "app_name": "sshd", "process_id": "77", "message": "hello"}),
    # What is not quite right stays whole.
    ("<13>1 2003-02-30T00:00:00Z h a p m - x",
     {"facility": "user", "severity": "notice", "message": "1 2003-02-30T00:00:00Z h a p m - x"}),
    ("<999>x", {"message": "<999>x"}),
    ("<013>x", {"message": "<013>x"}),
    ("", {"message": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_message(text: str, expected: dict[str, Any]) -> None:
    found = columns(text)
    if "structured_data" in found:
        found["structured_data"] = json.loads(found["structured_data"])
    assert found == expected


@pytest.mark.parametrize(
    ("text", "zone", "came", "expected"),
    [
        ("Dec 31 23:59:59", "UTC", "2027-01-01T00:00:05+00:00", "2026-12-31T23:59:59+00:00"),
        ("Jan  1 00:00:01", "UTC", "2026-12-31T23:59:59+00:00", "2027-01-01T00:00:01+00:00"),
        ("Jan  1 00:30:00", "Europe/Berlin", "2026-12-31T23:30:01+00:00", "2026-12-31T23:30:00+00:00"),
        ("Feb 29 12:00:00", "UTC", "2025-01-10T00:00:00+00:00", "2024-02-29T12:00:00+00:00"),
        ("Jul  1 12:00:00", "America/New_York", "2026-07-01T16:00:01+00:00", "2026-07-01T16:00:00+00:00"),
    ],
)  # fmt: skip
def test_a_time_without_a_year(text: str, zone: str, came: str, expected: str) -> None:
    assert columns(f"<13>{text} host app: x", zone, at(came))["timestamp"] == at(expected)


@given(st.integers(0, 191), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_comes_through(pri: int, text: str) -> None:
    found = columns(f"<{pri}>1 2026-01-01T00:00:00Z h a p m - {text}")
    assert found["message"] == text.removeprefix("\ufeff")
    assert found["facility"] == FACILITIES[pri // 8]
    assert found["severity"] == SEVERITIES[pri % 8]
