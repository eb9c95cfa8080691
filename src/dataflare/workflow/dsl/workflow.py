"""A workflow in Python: a tree like that of a YAML file, which the loader reads.

Always true: the tree is the same as that of a YAML file, so the loader checks it, replaces variables and
builds the model; this file has no knowledge of single steps. Every part has the place of the Python line
that created it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from dataflare.errors import ConfigError, WorkflowError, did_you_mean, raise_all
from dataflare.workflow.belongs import options_of
from dataflare.workflow.dsl.call_site import CallSite, call_site, pointing_out
from dataflare.workflow.dsl.functions import is_local_name
from dataflare.workflow.dsl.outcome import DrawnPlan, Outcome
from dataflare.workflow.dsl.streams import OnError, Schema, Stream
from dataflare.workflow.dsl.values import as_tree, set_options
from dataflare.workflow.dsl.yaml_text import refuse_own_connectors, to_yaml
from dataflare.workflow.load import _Loader
from dataflare.workflow.merge import apply_sets
from dataflare.workflow.nodes import SpotMap

if TYPE_CHECKING:
    import polars as pl

    from dataflare import RunOptions, RunResult
    from dataflare.sdk.source import SourceConnector
    from dataflare.workflow.model import Workflow as Model

SECTIONS = ("sources", "transformations", "destinations")
_ORDER = (
    *("name", "version", "description", "params", "settings", *SECTIONS),
    *("alerts", "notifiers", "tests"),
)
_Result = TypeVar("_Result")


class Workflow:
    """A workflow, to be filled step by step.

        wf = Workflow("active_customers", parallelism=2)
        crm = wf.source("crm", "file", path="customers.csv")
        crm.filter("active", "status == 'active'").to("out", "file", path="out.parquet")
        wf.run()

    parallelism, mode, guarantee: settings used often; settings: all the others, as in the file.
    base: the folder that relative paths start from; the current one if not given.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str | None = None,
        parallelism: int | None = None,
        mode: str | None = None,
        guarantee: str | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | os.PathLike[str] | None = None,
    ) -> None:
        self.base = Path() if base is None else Path(base)
        self.file: Path | None = None
        self._frames: dict[str, tuple[pl.DataFrame, ...]] = {}
        site = call_site()
        self._tree = SpotMap(spot=site.spot if site else None)
        self._put(self._tree, "name", name, site)
        self._put(self._tree, "version", "1.0", site)
        if description is not None:
            self._put(self._tree, "description", description, site)
        common_settings = set_options(parallelism=parallelism, mode=mode, guarantee=guarantee)
        if common_settings or settings:
            self._put(self._tree, "settings", {**(settings or {}), **common_settings}, site)

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str],
        *,
        overlays: Sequence[str | Path] = (),
        sets: Sequence[tuple[str, str] | str] = (),
        environment: str | None = None,
    ) -> Self:
        """Read a workflow file to inspect, extend and run it. Includes, environment and overlays are
        merged; variables stay as they are written. Raises WorkflowError if it cannot be read."""
        file_path = Path(path)
        loader = _Loader(None, None)
        tree = loader.reader.read(file_path, shown=str(path))
        tree = apply_sets(loader.over(tree, overlays, environment), sets, loader.errors)
        raise_all(loader.errors)
        workflow = cls.__new__(cls)
        workflow._tree, workflow.base, workflow.file = tree, file_path.parent, file_path
        workflow._frames = {}
        return workflow

    @property
    def name(self) -> str:
        return str(self._tree.get("name", ""))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self._tree.get(s) or ())} {s}" for s in SECTIONS)
        return f"<workflow {self.name}: {counts}>"

    @pointing_out
    def __getitem__(self, step: str) -> Stream:
        """The rows that leave an existing step, by its name."""
        step_names = [name for section in SECTIONS[:2] for name in self._tree.get(section) or ()]
        if step not in step_names:
            raise WorkflowError(
                f"there is no step '{step}' to read in the workflow '{self.name}'",
                code="E0108",
                notes=[f"its steps: {', '.join(step_names)}"],
                help=did_you_mean(step, step_names),
            )
        return Stream(self, step)

    # -- writing it

    def source(
        self,
        name: str,
        type: str | type[SourceConnector],
        /,
        *,
        schema: Schema | None = None,
        event_time: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        description: str | None = None,
        was: str | None = None,
        rate: str | Mapping[str, Any] | None = None,
        on_error: OnError | None = None,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Stream:
        """Add a source; options are the connector's config.

        type: a name that `dataflare connectors` lists, or your own connector class, which is then
        registered. schema: column to type. rate: the highest rate; of a connector with such an option, the option. config: options with the same names as parameters of this
        method.
        """
        step = set_options(description=description, was=was, on_error=on_error)
        step |= set_options(schema=schema, event_time=event_time, error_handling=error_handling)
        self._connect("sources", name, type, {**(config or {}), **options}, step, rate)
        return Stream(self, name)

    def frame(
        self,
        name: str,
        rows: pl.DataFrame | Sequence[pl.DataFrame],
        *,
        event_time: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Add a source of rows in memory: a Polars DataFrame, or several of one schema, one per split.
        They stay in this process, under the name `WORKFLOW.NAME`. This workflow reads its own, whatever
        another one of its name has."""
        from dataflare.connectors import memory

        store = f"{self.name}.{name}"
        self._frames[store] = memory.put(store, rows)
        return self.source(name, "memory", event_time=event_time, config={"name": store})

    def unsent(self, destination: str) -> Stream:
        """The rows that a destination does not get while its circuit breaker is open, for the `fallback` that it names:
        `wf.unsent("hook").to("spill", ...)`."""
        return Stream(self, destination)

    def param(self, name: str, type: str = "string", **options: Any) -> str:
        """Declare a parameter (options: default, description, ...). Returns it as a variable, to use in
        place of its value."""
        site = call_site()
        self._put(self._section("params", site), name, {"type": type, **options}, site)
        return f"${{param:{name}}}"

    def alert(
        self,
        when: str,
        *,
        name: str | None = None,
        for_: str | None = None,
        keep_firing_for: str | None = None,
        severity: str | None = None,
        step: str | Stream | None = None,
        notify: str | Sequence[str] | None = None,
    ) -> None:
        """Tell notifiers when a condition holds: `wf.alert("lag > 5m", for_="2m", notify=["ops"])`."""
        body: dict[str, Any] = {
            "name": name,
            "when": when,
            "for": for_,
            "keep_firing_for": keep_firing_for,
        }
        body |= {"severity": severity, "step": step.ref if isinstance(step, Stream) else step}
        body |= {"notify": notify if notify is None or isinstance(notify, str) else [*notify]}
        given = {key: value for key, value in body.items() if value is not None}
        site = call_site()
        alerts = [*self._tree.get("alerts", ()), as_tree(given, site)]
        self._put(self._tree, "alerts", alerts, site)

    def notifier(self, name: str, type: str, /, **options: Any) -> str:
        """Declare who is told of alerts: `wf.notifier("ops", "webhook", url=...)`. Returns the name. An option that is a
        word of Python is written with a line behind it: `from_=`."""
        site = call_site()
        given = {key.rstrip("_"): value for key, value in options.items()}
        self._put(self._section("notifiers", site), name, {"type": type, **given}, site)
        return name

    def test(
        self,
        name: str,
        *,
        given: Mapping[str, Sequence[Mapping[str, Any]]],
        expect: Mapping[str, Sequence[Mapping[str, Any]]],
        params: Mapping[str, Any] | None = None,
        description: str | None = None,
        ordered: bool | None = None,
    ) -> None:
        """Rows given at sources and rows expected at steps, for `dataflare test`."""
        body: dict[str, Any] = {"name": name, "given": given, "expect": expect}
        more = {"params": params, "description": description, "ordered": ordered}
        body |= {key: value for key, value in more.items() if value is not None}
        site = call_site()
        self._put(self._tree, "tests", [*self._tree.get("tests", ()), as_tree(body, site)], site)

    def _connect(
        self,
        section: str,
        name: str,
        connector: Any,
        config: Mapping[str, Any],
        step: dict[str, Any],
        rate: Any = None,
        reads: Sequence[Stream] = (),
    ) -> None:
        if not isinstance(connector, str):
            from dataflare.sdk.registry import register

            connector = register(connector).type
        if rate is not None and "rate" in options_of(section.removesuffix("s"), connector):
            config = {**config, "rate": rate}
        elif rate is not None:
            step["rate"] = rate
        inputs = {"inputs": list(reads)} if reads else {}
        self._add(section, name, {"type": connector, **inputs, "config": config, **step})

    def _transform(
        self,
        type_: str,
        name: str,
        config: Mapping[str, Any],
        step: dict[str, Any],
        inputs: Sequence[Stream],
    ) -> Stream:
        body: dict[str, Any] = {"type": type_, "inputs": inputs}
        if config:
            body["config"] = config
        self._add("transformations", name, {**body, **step})
        return Stream(self, name)

    @pointing_out
    def _add(self, section: str, name: str, body: dict[str, Any]) -> None:
        site = call_site()
        if any(name in (self._tree.get(each) or ()) for each in SECTIONS):
            raise WorkflowError(
                f"two steps have the name '{name}'",
                code="E0109",
                spot=site.value(name).spot if site else None,
                help="a name is unique over the whole workflow: rename one of them",
            )
        for foreign in body.get("inputs", ()):
            if foreign.workflow is not self:
                raise WorkflowError(
                    f"step '{name}' reads '{foreign.ref}' of another workflow",
                    code="E0108",
                    spot=site.spot if site else None,
                    help="read steps of one workflow only",
                )
        on_error = body.pop("on_error", None)
        if on_error is not None:
            body["error_handling"] = {**body.get("error_handling", {}), "on_error": on_error}
        self._put(self._section(section, site), name, body, site)

    def _section(self, name: str, site: CallSite | None) -> SpotMap:
        if not isinstance(self._tree.get(name), SpotMap):
            self._put(self._tree, name, {}, site)
        section: SpotMap = self._tree[name]
        return section

    @staticmethod
    def _put(node: SpotMap, key: str, value: Any, site: CallSite | None) -> None:
        node_value = as_tree(value, site)
        place = site.literal(key) or site.spot if site else None
        if isinstance(node_value, SpotMap):
            node_value.spot = place
        node.put(
            key,
            node_value,
            place,
            getattr(node_value, "spot", None) or (site.spot if site else None),
        )

    # -- using it

    @pointing_out
    def build(self, params: Mapping[str, Any] | None = None) -> Model:
        """The validated model, the same as that of the YAML. Raises all errors together."""
        loader = _Loader(None, None)
        return loader.finish(self._tree, params, (), (), file=self.file, base=self.base)

    def to_json(self, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The model as plain data, to show or to send: secrets by name, passwords hidden."""
        return self.build(params).to_json()

    @pointing_out
    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The workflow as the text of a file. It is also written to `path`, if that is not None.

        Variables and secrets are as written, never their values. Raises ConfigError (E0408) for a
        function that only this process knows.
        """
        refuse_own_connectors(self._tree)
        for name, step in (self._tree.get("transformations") or {}).items():
            function = str((step.get("config") or {}).get("function", ""))
            if step.get("type") == "python" and is_local_name(function):
                raise ConfigError(
                    f"the function of step '{name}' is known to this process only",
                    code="E0408",
                    step=name,
                    help="move it to a module, and import it from there",
                )
        text = to_yaml(self.to_tree())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_tree(self) -> dict[str, Any]:
        """The sections as they were written, in the order of a file."""
        ordered = {key: self._tree[key] for key in _ORDER if key in self._tree}
        return {**ordered, **self._tree}

    @pointing_out
    def plan(self, params: Mapping[str, Any] | None = None) -> DrawnPlan:
        """The plan. Opens sources for their schemas and checks everything; does not run the workflow."""
        from dataflare import plan

        model = self.build(params)
        return DrawnPlan(self._outside_of_loops(lambda: plan(model)))

    @pointing_out
    def preview(
        self, step: str | Stream, rows: int = 20, params: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """The first rows that leave a step. Nothing is written."""
        from dataflare import preview

        model = self.build(params)
        name = step if isinstance(step, str) else step.ref
        return self._outside_of_loops(lambda: preview(model, name, rows))

    @pointing_out
    def run(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        fresh: bool = False,
        accept_changes: bool = False,
        adopt: bool = False,
        from_savepoint: str | None = None,
        for_s: float | None = None,
        stdout: IO[str] | None = None,
        check: bool = True,
    ) -> Outcome:
        """Run it in this process, to its end or for `for_s` seconds.

        home: the folder of state and history; by default $DATAFLARE_HOME, else `.dataflare` beside the
        workflow's file, or in the working directory if there is no file. fresh: start over instead of
        resuming an unfinished run. accept_changes: resume although steps have changed. adopt: continue
        the run of another home that wrote the destinations. from_savepoint: go on from the savepoint of this
        name; steps may have changed. stdout: where `stdout` destinations print, in place of standard output. check: raise the error of
        a failed run; otherwise it is in the outcome.
        """
        from dataflare import run

        model = self.build(params)
        options = self._options(
            home=home, fresh=fresh, accept_changes=accept_changes, adopt=adopt,
            savepoint=from_savepoint, for_s=for_s, stdout=stdout,
        )  # fmt: skip
        result = self._outside_of_loops(lambda: run(model, options))
        return _outcome(model, result, check=check)

    @pointing_out
    async def arun(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        fresh: bool = False,
        accept_changes: bool = False,
        adopt: bool = False,
        from_savepoint: str | None = None,
        for_s: float | None = None,
        stdout: IO[str] | None = None,
        check: bool = True,
    ) -> Outcome:
        """As `run`, on the event loop that is running, beside other runs. When its task is cancelled, it
        takes a checkpoint and ends; the next run goes on from there."""
        from dataflare import arun

        model = self.build(params)
        options = self._options(
            home=home, fresh=fresh, accept_changes=accept_changes, adopt=adopt,
            savepoint=from_savepoint, for_s=for_s, stdout=stdout,
        )  # fmt: skip
        with self._reading():
            result = await arun(model, options)
        return _outcome(model, result, check=check)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What runs inside, and in tasks that it starts, reads the frames of this workflow."""
        if not self._frames:
            yield
            return
        from dataflare.connectors import memory

        with memory.reading(self._frames):
            yield

    def _outside_of_loops(self, work: Callable[[], _Result]) -> _Result:
        def reading() -> _Result:
            with self._reading():
                return work()

        return _outside_of_loops(reading)

    def _options(self, *, home: str | os.PathLike[str] | None, **options: Any) -> RunOptions:
        from dataflare import RunOptions
        from dataflare.checkpoint.home import home_of

        return RunOptions(home=Path(home).absolute() if home else home_of(self.file), **options)


def _outcome(model: Model, result: RunResult, *, check: bool) -> Outcome:
    """The result with the rows that it brought into memory. check: raise the error of a run that failed."""
    from dataflare.connectors import memory

    if check and result.error is not None:
        raise result.error
    rows = {
        name: memory.committed_by(str(step.config.get("name") or name), result.run_id, name)
        for name, step in model.destinations.items()
        if step.type == "memory"
    }
    return Outcome(result, rows)


def _outside_of_loops(work: Callable[[], _Result]) -> _Result:
    """The result of a function that starts an event loop. If a loop runs already, as in a notebook, the
    function runs on another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    results: list[_Result] = []
    errors: list[BaseException] = []

    def on_thread() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=on_thread, name="dataflare-workflow")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
