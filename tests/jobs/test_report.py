"""The report of a run, in files and in a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from browser import Browser

from dataflare import Workflow
from dataflare.checkpoint.runs import RunLog
from dataflare.jobs import recording
from dataflare.jobs.recording import recorded
from dataflare.jobs.report import page, report_of

SECRET = "hunter22-very-secret"
WORKFLOW = """\
name: shop
settings: {checkpoint: {interval: 100ms}, error_handling: {on_error: dead_letter}}
sources:
  orders:
    type: generate
    config:
      columns: {id: {sequence: 0}, email: {choice: [ann@example.com]}, at: {time: {start: now, step: 1ms}}}
      rate: 2000/s
      rows: 1500
    event_time: {column: at}
transformations:
  priced: {type: map, inputs: [orders], config: {derive: {per: "10 % (id % 500)", sure: "cast(email as int64)"}}}
  hidden: {type: mask, inputs: [priced], config: {columns: {email: email}}}
destinations:
  copy: {type: sqlite, inputs: [hidden], config: {path: copy.db, table: "a<b>&c"}}
"""


def dataflare(folder: Path, *arguments: str, status: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    done = subprocess.run([sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True,
                          capture_output=True, env={**environment, "SHOP_SECRET": SECRET}, timeout=120)  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow ran."""
    folder = tmp_path_factory.mktemp("shop")
    text = WORKFLOW.replace(', sure: "cast(email as int64)"', "")
    (folder / "shop.yaml").write_text(text)
    dataflare(folder, "run", "shop.yaml", "--quiet")
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield made
    finally:
        made.close()


def shown(browser: Browser, folder: Path, width: int, scheme: str) -> None:
    """Open the report without a network. Fails where it asks for more than itself, or complains."""
    place = folder / "shown.html"
    place.write_text(html_of(folder))
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=media)
    browser.width(width)
    browser.take_events()
    browser.open(place.as_uri())
    events = browser.take_events()
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert asked == [place.as_uri()]
    complaints = [e for e in events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")]  # fmt: skip
    assert complaints == []


def html_of(folder: Path) -> str:
    return dataflare(folder, "report", "shop", "--html")


class Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]


def test_it_needs_nothing_else(shop: Path):
    text = html_of(shop)
    links = Links()
    links.feed(text)
    assert links.found == []
    assert "@import" not in text
    assert "url(" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_a_network_and_without_scrolling_sideways(
    chromium: Browser, shop: Path, scheme: str, width: int
):
    shown(chromium, shop, width, scheme)
    assert chromium.value("document.documentElement.scrollWidth") == width
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 20, 26)" if scheme == "dark" else "rgb(255, 255, 255)")
    titles = chromium.value("[...document.querySelectorAll('h2')].map(each => each.innerText)")
    assert titles[:3] == ["What set the pace", "The graph", "Over its time"]
    assert {"Checkpoints", "Steps", "Rows that failed"} <= set(titles)
    assert chromium.value("document.querySelectorAll('.drawing svg [data-step]').length") == 4
    charts = chromium.value(
        "[...document.querySelectorAll('figure.chart h3')].map(each => each.innerText)"
    )
    assert charts[:3] == ["Rows read a second", "Rows written a second", "Latency, 99% of the rows"]
    # Every line of a chart has a length, and nothing of the page is beside it.
    assert chromium.value(
        "[...document.querySelectorAll('path.l')].every(each => each.getTotalLength() > 0)"
    )
    outside = chromium.value(
        "[...document.querySelectorAll('main *')].filter(each => !each.closest('.wide, .example')"
        " && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_texts_can_be_read_on_their_ground(chromium: Browser, shop: Path):
    """The contrast of each text is at least 4.5 (WCAG 2.1, AA)."""
    script = """(() => {
      const parts = c => (c.match(/[0-9.]+/g) || []).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
        if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
      return [...document.querySelectorAll('main *')].filter(e => !e.closest('svg') &&
        [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
          const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
          return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 90)]; }).filter(x => x[0] < 4.5);
    })()"""
    for scheme in ("light", "dark"):
        shown(chromium, shop, 1280, scheme)
        assert chromium.value(script) == []


def test_its_numbers_are_those_of_the_run(shop: Path):
    found = json.loads(dataflare(shop, "report", "shop", "--json"))
    assert found["counts"]["orders"]["rows_out"] == 1500
    assert found["counts"]["priced"]["dead_letters"] == 3
    rates = found["rates"]["orders"]
    times = [at_s for at_s, _ in rates]
    rows = sum(
        rate * (now - before) for (now, rate), before in zip(rates, [0.0, *times[:-1]], strict=True)
    )
    assert round(rows) == 1500
    (failed,) = found["failed"]
    assert (failed["step"], failed["code"], failed["rows"]) == ("priced", "E0519", 3)
    assert len(failed["examples"]) == 3


def test_values_of_masked_columns_are_not_in_it(tmp_path: Path):
    (tmp_path / "shop.yaml").write_text(WORKFLOW)
    dataflare(tmp_path, "run", "shop.yaml", "--quiet")
    letters = "".join(
        path.read_text() for path in (tmp_path / ".dataflare/shop/dead_letters").iterdir()
    )
    assert "ann@example.com" in letters
    for text in (
        html_of(tmp_path),
        dataflare(tmp_path, "report", "shop", "--json"),
        dataflare(tmp_path, "report", "shop"),
    ):
        assert "priced" in text
        assert "ann@" not in text


def test_texts_of_a_source_are_not_in_it_where_columns_are_masked(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("id,email\n1,ann@example.com\nx,bob@example.com\n")
    (tmp_path / "shop.yaml").write_text(
        "name: shop\nsettings: {error_handling: {on_error: dead_letter}}\n"
        "sources: {rows: {type: file, config: {path: rows.csv}, schema: {id: int64, email: string}}}\n"
        "transformations: {hidden: {type: mask, inputs: [rows], config: {columns: {email: email}}}}\n"
        "destinations: {out: {type: file, inputs: [hidden], config: {path: out.csv}}}\n"
    )
    dataflare(tmp_path, "run", "shop.yaml", "--quiet")
    text = html_of(tmp_path)
    assert "1 dead letter" in text
    assert "bob" not in text


def test_a_run_that_failed_says_why_and_where(tmp_path: Path):
    (tmp_path / "shop.yaml").write_text(
        "name: shop\nsources: {rows: {type: inline, config: {rows: [{id: 0}]}}}\n"
        'transformations: {bad: {type: map, inputs: [rows], config: {derive: {n: "1 % id"}}}}\n'
        "destinations: {out: {type: file, inputs: [bad], config: {path: out.csv}}}\n"
    )
    dataflare(tmp_path, "run", "shop.yaml", "--quiet", status=1)
    text = html_of(tmp_path)
    assert '<span class="pill bad">failed</span>' in text
    assert "<code>E0519</code> in step <b>bad</b>" in text


def test_a_run_is_found_by_its_id_and_any_other_is_refused(shop: Path):
    record = RunLog(shop / ".dataflare" / "shop").last()
    assert record is not None
    assert record.run_id in dataflare(shop, "report", record.run_id)
    assert "E0121" in dataflare(shop, "report", "shopp", status=2)
    unknown = record.run_id[:-1] + ("0" if record.run_id[-1] != "0" else "1")
    assert "E0815" in dataflare(shop, "report", unknown, status=2)


def test_the_page_goes_into_a_file(shop: Path):
    assert dataflare(shop, "report", "shop", "-o", "r.html").strip() == "r.html"
    assert (shop / "r.html").read_text().startswith("<!doctype html>")


def test_names_of_the_user_are_text_and_no_markup(shop: Path):
    text = html_of(shop)
    assert "a<b>" not in text
    assert "a&lt;b&gt;" in text


def test_a_run_without_a_course_is_reported_too(shop: Path, tmp_path: Path):
    folder = shop / ".dataflare" / "shop"
    record = RunLog(folder).last()
    assert record is not None
    bare = report_of(tmp_path, record)
    assert bare.recorded is None
    assert "The course of this run is not kept" in page(bare)


def test_only_the_newest_courses_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "_KEPT", 3)
    for _ in range(5):
        wf = Workflow("rows", base=tmp_path)
        wf.frame("rows", pl.DataFrame({"id": [1]})).to("out", "blackhole")
        outcome = wf.run(home=tmp_path / "home")
    kept = sorted((tmp_path / "home/rows" / recording.FOLDER).iterdir())
    assert len(kept) == 3
    found = recorded(tmp_path / "home" / "rows", outcome.run_id)
    assert found is not None
    assert found.view.steps["out"].rows_in == 1
    assert found.course.samples[-1].steps["out"].rows_in == 1


def test_a_run_does_not_fail_where_its_course_cannot_be_written(tmp_path: Path):
    (tmp_path / "home" / "rows").mkdir(parents=True)
    (tmp_path / "home" / "rows" / recording.FOLDER).write_text("a file")
    wf = Workflow("rows", base=tmp_path)
    wf.frame("rows", pl.DataFrame({"id": [1]})).to("out", "blackhole")
    outcome = wf.run(home=tmp_path / "home")
    assert outcome.status == "finished"
    told = [each for each in outcome.warnings if each.startswith("the course of this run is not kept: ")]  # fmt: skip
    assert len(told) == 1


FAILING_ROWS = """\
name: shop
settings: {error_handling: {on_error: dead_letter}}
sources: {rows: {type: inline, config: {rows: [{id: 1, email: bob@example.com}]}}}
transformations:
  hidden: {type: mask, inputs: [rows], config: {columns: {email: redact}}}
  bad: {type: map, inputs: [rows], config: {derive: {n: "cast(email as int64)"}}}
  newest: {type: aggregate, inputs: [rows], config: {emit: updates, group_by: [id], measures: {last: "max(email)"}}}
destinations:
  a: {type: blackhole, inputs: [hidden]}
  b: {type: blackhole, inputs: [bad]}
  c: {type: blackhole, inputs: [newest]}
"""


@pytest.mark.parametrize("course", ["kept", "gone", "cut"])
def test_a_masked_value_is_hidden_whether_or_not_the_course_is_kept(tmp_path: Path, course: str):
    (tmp_path / "shop.yaml").write_text(FAILING_ROWS)
    assert "course" not in dataflare(tmp_path, "run", "shop.yaml")
    (file,) = (tmp_path / ".dataflare" / "shop" / recording.FOLDER).iterdir()
    if course == "gone":
        file.unlink()
    elif course == "cut":
        file.write_bytes(file.read_bytes()[:100])
    texts = [dataflare(tmp_path, "report", "shop", *more) for more in ((), ("--html",), ("--json",))]  # fmt: skip
    answer = json.loads(texts[2])
    assert answer["values_shown"] is (course == "kept")
    (failed,) = answer["failed"]
    (example,) = failed["examples"]
    assert example["row"] == {"id": 1 if course == "kept" else "***", "email": "***"}
    assert not any("bob" in text for text in texts)
    for text in texts[:2]:
        assert ("which columns are masked is not kept" in text) is (course != "kept")


def test_times_of_day_are_utc(shop: Path):
    text = html_of(shop)
    assert re.search(r"Started <b>20\d\d-\d\d-\d\d \d\d:\d\d:\d\d</b>", text)
    assert "Times of day are UTC" in text
