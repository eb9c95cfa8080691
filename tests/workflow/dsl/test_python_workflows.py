"""Working with a workflow in Python: places in errors, functions, frames, notebooks, runs."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from dataflare import Workflow
from dataflare.connectors import memory
from dataflare.errors import (
    ConfigError,
    DataError,
    DataFlareError,
    ExpressionError,
    WorkflowError,
)
from dataflare.model.types import Schema
from dataflare.sdk.destination import (
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)

ROWS = pl.DataFrame({"id": [1, 2, 3], "country": ["DE", "US", None]})


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))
    memory.clear()
    yield
    memory.clear()


def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("id") * 2)


def small() -> Workflow:
    wf = Workflow("small", parallelism=2)
    wf.frame("rows", ROWS).filter("eu", "country = 'DE'").to("out", "memory")
    return wf


def test_a_run_gives_counts_and_frames():
    outcome = small().run()
    assert outcome.status == "finished"
    assert outcome.frame("out").rows() == [(1, "DE")]
    assert outcome.counts["eu"]["rows_in"] == 3
    assert outcome.errors == {}
    assert outcome.published["out"]["rows"] == 1
    with pytest.raises(ConfigError, match="no memory destination 'uot'"):
        outcome.frame("uot")


def test_an_outcome_draws_itself_with_what_went_wrong(tmp_path: Path):
    (tmp_path / "in.csv").write_text("id\n1\n<b>\n3\n")
    wf = Workflow("drawn", base=tmp_path)
    rows = wf.source("rows", "file", path="in.csv", schema={"id": "int64"}, on_error="dead_letter")
    rows.to("out", "memory")
    outcome = wf.run()
    told = outcome._repr_html_()
    assert outcome.dead_letters == {"rows": 1}
    assert outcome.errors == {"rows": 1}
    assert outcome.duration_s > 0
    assert "dead letters" in told
    assert "dataflare dlq show drawn" in told
    assert outcome.arrow("out").to_pydict() == {"id": [1, 3]}

    wf = Workflow("broken", base=tmp_path)
    wf.source("rows", "file", path="in.csv", schema={"id": "int64"}).to("out", "memory")
    told = wf.run(check=False)._repr_html_()
    assert "failed" in told
    assert "error[E0501]" in told
    assert "&lt;b&gt;" in told
    assert "<b>'" not in told


def test_a_second_run_gives_its_own_rows_only():
    wf = small()
    assert wf.run().frame("out").height == 1
    assert wf.run().frame("out").height == 1
    assert memory.committed("out").height == 2


def measured(name: str, rows: list[dict[str, Any]], measure: str) -> Workflow:
    wf = Workflow(name)
    groups = wf.source("s", "inline", rows=rows).aggregate("g", {measure: "max(v)"}, group_by=["k"])
    groups.to("out", "memory")
    groups.to("again", "memory", name="out")
    return wf


def test_an_outcome_has_the_columns_and_rows_of_its_run_alone(tmp_path: Path):
    """Also where other workflows, homes and earlier runs write to a store of the same name, at the same time too."""
    runs = [
        ("one", [{"k": "a", "v": "x"}], "text"),
        ("two", [{"k": "b", "v": 7}], "number"),
        ("two", [{"k": "c", "v": 8}], "other"),
    ]
    workflows = [measured(*each) for each in runs]
    homes = [tmp_path / str(n) for n in range(3)]

    async def together() -> list[Any]:
        pairs = zip(workflows, homes, strict=True)
        return await asyncio.gather(*(wf.arun(home=home) for wf, home in pairs))

    wanted = [[{"k": "a", "text": "x"}], [{"k": "b", "number": 7}], [{"k": "c", "other": 8}]]
    outcomes = asyncio.run(together())
    again = [wf.run(home=tmp_path / "same", fresh=True) for wf in workflows]
    for each in (outcomes, again):
        for name in ("out", "again"):
            assert [outcome.frame(name).to_dicts() for outcome in each] == wanted
        assert [outcome.published["out"]["rows"] for outcome in each] == [1, 1, 1]
    assert again[1].frame("out").schema == {"k": pl.String, "number": pl.Int64}


def test_a_workflow_reads_its_own_frames(tmp_path: Path):
    """Also beside another one of its name, and where that got its frame later."""
    frames = [pl.DataFrame({"id": [1]}), pl.DataFrame({"word": ["x", "y"]})]
    workflows = []
    for frame in frames:
        workflows.append(Workflow("same"))
        workflows[-1].frame("rows", frame).to("out", "memory")

    async def together() -> list[Any]:
        pairs = enumerate(workflows)
        return await asyncio.gather(*(wf.arun(home=tmp_path / str(n)) for n, wf in pairs))

    for outcomes in (asyncio.run(together()), [wf.run(fresh=True) for wf in workflows]):
        assert [outcome.frame("out").to_dicts() for outcome in outcomes] == [
            frame.to_dicts() for frame in frames
        ]
    assert [wf.preview("rows").columns for wf in workflows] == [["id"], ["word"]]
    assert "columns: id int64" in str(workflows[0].plan())


def test_it_runs_where_a_loop_runs_already_as_in_a_notebook():
    async def cell() -> tuple[list[Any], list[Any]]:
        wf = small()
        return wf.run().frame("out").rows(), wf.preview(wf["eu"]).rows()

    assert asyncio.run(cell()) == ([(1, "DE")], [(1, "DE")])


def test_a_failed_run_raises_and_rows_left_out_are_counted():
    wf = Workflow("bad")
    wf.frame("rows", ROWS).map("cut", derive={"n": "10 % (id - 2)"}).to("out", "memory")
    with pytest.raises(DataError):
        wf.run()
    assert wf.run(check=False, fresh=True).status == "failed"
    lenient = Workflow("lenient")
    step = lenient.frame("rows", ROWS).map("cut", derive={"n": "10 % (id - 2)"}, on_error="skip")
    step.to("kept", "memory")
    outcome = lenient.run()
    assert outcome.errors == {"cut": 1}
    assert outcome.frame("kept")["id"].to_list() == [1, 3]


def test_an_error_shows_the_python_line_and_the_very_word():
    wf = Workflow("wrong")
    rows = wf.frame("rows", ROWS)
    rows.filter("eu", "country = 'DE' AND oops > 1").to("out", "memory")
    line = sys._getframe().f_lineno - 1
    with pytest.raises(ExpressionError) as caught:
        wf.plan()
    spot = caught.value.spot
    assert spot is not None
    assert spot.file.endswith("test_python_workflows.py")
    assert spot.line == line
    assert spot.text is not None
    assert spot.text[spot.column - 1 :].startswith("oops")


def test_an_error_of_text_from_a_variable_shows_the_call():
    condition = "oops" + " > 1"
    wf = Workflow("wrong")
    step = wf.frame("rows", ROWS).filter("eu", condition)
    line = sys._getframe().f_lineno - 1
    step.to("out", "memory")
    with pytest.raises(ExpressionError) as caught:
        wf.plan()
    assert caught.value.spot is not None
    assert caught.value.spot.line == line


def test_an_unknown_option_is_shown_where_it_is_given():
    wf = Workflow("wrong")
    wf.source("a", "inline", rows=[{"x": 1}]).to("out", "file", path="x.csv", fromat="csv")
    with pytest.raises(DataFlareError) as caught:
        wf.plan()
    error = caught.value
    assert error.code == "E0403"
    assert error.spot is not None
    assert error.spot.text is not None
    assert error.spot.text[error.spot.column - 1 :].startswith("fromat=")


def test_steps_are_told_apart_and_stay_in_their_workflow():
    wf, other = small(), Workflow("other")
    with pytest.raises(WorkflowError, match="two steps have the name 'rows'") as caught:
        wf.source("rows", "inline", rows=[])
    assert caught.value.code == "E0109"
    foreign = other.source("there", "inline", rows=[{"id": 1, "country": "x"}])
    with pytest.raises(WorkflowError, match="of another workflow"):
        wf["eu"].union("all", foreign)
    with pytest.raises(WorkflowError, match="no step 'row'") as caught:
        wf["row"]
    assert caught.value.help == "did you mean 'rows'?"


def test_a_function_is_called_by_name_or_kept_here():
    factor = 3

    def local(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("id") * factor)

    wf = Workflow("functions")
    step = wf.frame("rows", ROWS).python("two", doubled).python("three", local)
    step.to("out", "memory")
    assert wf.run().frame("out")["id"].to_list() == [6, 12, 18]
    config = wf.build().transformations["two"].config
    assert config["function"] == f"{__name__}:doubled"
    with pytest.raises(ConfigError, match="known to this process only") as caught:
        wf.to_yaml()
    assert caught.value.step == "three"


def test_a_function_that_is_written_anew_is_the_new_one():
    found = []
    for factor in (2, 5):

        def times(frame: pl.DataFrame, factor: int = factor) -> pl.DataFrame:
            return frame.with_columns(pl.col("id") * factor)

        wf = Workflow("again")
        wf.frame("rows", ROWS).python("times", times).to("out", "memory")
        found.append(wf.run(fresh=True).frame("out")["id"].to_list())
    assert found == [[2, 4, 6], [5, 10, 15]]


def test_values_of_python_become_those_of_the_format(tmp_path: Path):
    wf = Workflow("values")
    rows = wf.source("a", "file", path=tmp_path / "x.csv", schema=Schema.of({"n": "int64"}))
    rows.deduplicate("once", "n", within=datetime.timedelta(minutes=90)).to("b", "blackhole")
    model = wf.build()
    assert model.sources["a"].config["path"] == str(tmp_path / "x.csv")
    assert model.sources["a"].schema == Schema.of({"n": "int64"})
    assert model.transformations["once"].config["within"] == "90m"
    with pytest.raises(ConfigError, match="type object cannot be part of a workflow"):
        wf.source("c", "inline", rows=[{"x": object()}])


class NothingConfig(BaseModel):
    name: str = "it"


class _Nothing(Writer):
    async def write_batch(self, batch: Any) -> WriteStats:
        Nothing.rows += batch.num_rows
        return WriteStats(batch.num_rows)


class Nothing(DestinationConnector):
    """Counts. Its option `name` must not be taken for the step's."""

    type = "test_dsl_nothing"
    Config = NothingConfig
    rows = 0

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(Delivery.FLEETING, "nothing is kept")

    async def open(self, context: Any, restored: Any) -> Writer:
        assert self.config.name == "mine"
        return _Nothing()


def test_a_connector_class_is_registered_by_using_it():
    wf = Workflow("classes")
    wf.frame("rows", ROWS).to("out", Nothing, name="mine")
    wf.run()
    assert Nothing.rows == 3


def test_parameters_and_tests_are_those_of_the_file():
    wf = Workflow("params")
    least = wf.param("least", "int64", default=2, description="the least id")
    wf.frame("rows", ROWS).filter("big", f"id >= {least}").to("out", "memory")
    wf.test("small ones go", given={"rows": [{"id": 1}]}, expect={"out": []})
    assert wf.run().frame("out")["id"].to_list() == [2, 3]
    assert wf.run({"least": 3}).frame("out")["id"].to_list() == [3]
    assert [test.name for test in wf.build().tests] == ["small ones go"]


def test_a_plan_draws_itself():
    drawn = small().plan()
    bundle = drawn._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")
    assert "eu" in bundle["text/plain"]
    assert drawn.draw("mermaid").startswith("---") or "flowchart" in drawn.draw("mermaid")
    assert drawn.guarantees == {"out": "exactly once"}


def test_a_file_can_be_taken_further(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("id\n1\n2\n")
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: further\nsources: {rows: {type: file, config: {path: rows.csv}}}\n"
        "destinations: {out: {type: memory, inputs: [rows]}}\n"
    )
    wf = Workflow.from_yaml(file)
    wf["rows"].filter("two", "id = 2").to("more", "memory")
    outcome = wf.run()
    assert outcome.frame("out").height == 2
    assert outcome.frame("more").height == 1
    file.write_text("name: x\nname: y\n")
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_yaml(file)
    assert caught.value.code == "E0102"


def test_the_package_itself_imports_nothing_until_asked():
    code = "import sys, dataflare; dataflare.__version__; dir(dataflare); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert [name for name in loaded if name.startswith("dataflare")] == ["dataflare"]
    assert not loaded & {"polars", "pydantic", "yaml", "importlib.metadata"}
