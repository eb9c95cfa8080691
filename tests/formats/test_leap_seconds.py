"""A time with the second 60 is a bad row: no type holds it, and it must not become the next minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare import load, run
from dataflare.jobs import RunOptions

WORKFLOW = """
name: leap
version: "1.0"
settings: {error_handling: {on_error: skip}}
sources: {a: {type: file, config: {path: "NAME"}SCHEMA}}
destinations: {o: {type: file, inputs: [a], config: {path: out.csv}}}
"""
STAMPS = ["2024-01-01T00:00:00", "2024-01-01T23:59:60", "2024-01-01T23:59:59"]


@pytest.mark.parametrize("format_", ["csv", "ndjson", "json"])
@pytest.mark.parametrize("type_", [None, "timestamp[us]", "timestamp[ms]", "timestamp[us, UTC]"])
def test_a_leap_second_is_a_bad_row(tmp_path: Path, format_: str, type_: str | None) -> None:
    stamps = [STAMPS[0]] * 2_000 + STAMPS
    match format_:
        case "csv":
            text = "at,n\n" + "".join(f"{at},{n}\n" for n, at in enumerate(stamps))
        case _:
            rows = [f'{{"at": "{at}", "n": {n}}}' for n, at in enumerate(stamps)]
            text = "\n".join(rows) if format_ == "ndjson" else f"[{','.join(rows)}]"
    (tmp_path / f"in.{format_}").write_text(text)
    schema = f', schema: {{at: "{type_}", n: int64}}' if type_ else ""
    flow = WORKFLOW.replace("NAME", f"in.{format_}").replace("SCHEMA", schema)
    if type_ is None:
        flow = flow.replace('path: "in', 'schema_sample_rows: 100, path: "in')
    (tmp_path / "w.yaml").write_text(flow)
    result = run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home"))
    assert result.error is None
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    numbers = [int(line.rpartition(",")[2]) for line in lines]
    if (format_, type_) == ("json", None):
        # Such a file is read whole, so the column is text.
        assert lines[2_001].startswith("2024-01-01T23:59:60,")
        return
    assert numbers == [n for n in range(len(stamps)) if n != 2_001]
    assert "2024-01-02" not in "".join(lines)


def test_text_with_such_a_time_is_only_text(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("at,note\n2024-01-01T00:00:00,at 23:59:60 UTC\n")
    flow = WORKFLOW.replace("NAME", "in.csv").replace("SCHEMA", "")
    (tmp_path / "w.yaml").write_text(flow)
    assert run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home")).error is None
    assert "at 23:59:60 UTC" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("date_format", "stamps"),
    [
        ("%d.%m.%Y %H.%M.%S", ["01.01.2024 23.59.5{}", "01.01.2024 23.59.60"]),
        ("%Y%m%d%H%M%S", ["2024010123595{}", "20240101235960"]),
        ("%d/%m/%Y %T", ["01/01/2024 23:59:5{}", "01/01/2024 23:59:60"]),
        ("%S:%M:%H %d/%m/%Y", ["5{}:59:23 01/01/2024", "60:59:23 01/01/2024"]),
    ],
)
def test_a_leap_second_in_a_format_of_the_user_is_a_bad_row(
    tmp_path: Path, date_format: str, stamps: list[str]
) -> None:
    texts = [stamps[0].format(n % 10) for n in range(500)] + [stamps[1], stamps[0].format(1)]
    (tmp_path / "in.csv").write_text(
        "at,n\n" + "".join(f"{at},{n}\n" for n, at in enumerate(texts))
    )
    more = f'in.csv", schema_sample_rows: 100, date_format: "{date_format}'
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("NAME", more).replace("SCHEMA", ""))
    result = run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home"))
    assert result.error is None
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [int(line.rpartition(",")[2]) for line in lines] == [*range(500), 501]
    assert lines[-1].startswith("2024-01-01T23:59:51")


def test_a_leap_second_in_a_list_of_times_is_a_bad_row(tmp_path: Path) -> None:
    rows = [f'{{"n": {n}, "at": ["{at}"]}}' for n, at in enumerate(STAMPS)]
    (tmp_path / "in.ndjson").write_text("\n".join(rows))
    schema = ', schema: {n: int64, at: "list<timestamp[us]>"}'
    flow = WORKFLOW.replace("NAME", "in.ndjson").replace("SCHEMA", schema)
    (tmp_path / "w.yaml").write_text(flow.replace("out.csv", "out.ndjson"))
    result = run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home"))
    assert result.error is None
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    assert len(lines) == 2
    assert "2024-01-01T00:00:00" in lines[0]
    assert "2024-01-01T23:59:59" in lines[1]


def test_a_time_of_day_with_the_second_60_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("at,n\n23:59:58,0\n23:59:60,1\n23:59:59,2\n")
    flow = WORKFLOW.replace("NAME", "in.csv").replace("SCHEMA", ", schema: {at: time, n: int64}")
    (tmp_path / "w.yaml").write_text(flow)
    assert run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home")).error is None
    assert (tmp_path / "out.csv").read_text() == "at,n\n23:59:58,0\n23:59:59,2\n"
