"""A workflow being written: a tree like that of a YAML file, and the loader's door for it.

Always true: the tree is what a YAML file's would be, so the loader checks it, fills in variables and
builds the model; nothing here knows what a step means. Every part knows the Python line that made it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dataflare.errors import ConfigError, WorkflowError, did_you_mean, raise_all
from dataflare.workflow.dsl.call_site import CallSite, call_site, pointing_out
from dataflare.workflow.dsl.functions import is_kept_here
from dataflare.workflow.dsl.outcome import DrawnPlan, Outcome
from dataflare.workflow.dsl.streams import OnError, Schema, Stream
from dataflare.workflow.dsl.values import given, written
from dataflare.workflow.dsl.yaml_text import to_yaml
from dataflare.workflow.load import _Loader
from dataflare.workflow.merge import apply_sets
from dataflare.workflow.nodes import SpotMap

if TYPE_CHECKING:
    import polars as pl

    from dataflare.sdk.source import SourceConnector
    from dataflare.workflow.model import Workflow as Model

SECTIONS = ("sources", "transformations", "destinations")
_ORDER = ("name", "version", "description", "params", "settings", *SECTIONS, "tests")
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
        site = call_site()
        self._tree = SpotMap(spot=site.spot if site else None)
        self._put(self._tree, "name", name, site)
        self._put(self._tree, "version", "1.0", site)
        if description is not None:
            self._put(self._tree, "description", description, site)
        own = given(parallelism=parallelism, mode=mode, guarantee=guarantee)
        if own or settings:
            self._put(self._tree, "settings", {**(settings or {}), **own}, site)

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str],
        *,
        overlays: Sequence[str | Path] = (),
        sets: Sequence[tuple[str, str] | str] = (),
        environment: str | None = None,
    ) -> Self:
        """A workflow file, its includes, environment and overlays merged in and its variables still
        as written, to be looked at, extended and run. Raises WorkflowError for what cannot be read."""
        where = Path(path)
        loader = _Loader(None, None)
        tree = loader.reader.read(where, shown=str(path))
        tree = apply_sets(loader.over(tree, overlays, environment), sets, loader.errors)
        raise_all(loader.errors)
        made = cls.__new__(cls)
        made._tree, made.base, made.file = tree, where.parent, where
        return made

    @property
    def name(self) -> str:
        return str(self._tree.get("name", ""))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self._tree.get(s) or ())} {s}" for s in SECTIONS)
        return f"<workflow {self.name}: {counts}>"

    @pointing_out
    def __getitem__(self, step: str) -> Stream:
        """The rows that leave a step made before, by its name."""
        known = [name for section in SECTIONS[:2] for name in self._tree.get(section) or ()]
        if step not in known:
            raise WorkflowError(
                f"there is no step '{step}' to read in the workflow '{self.name}'",
                code="E0108",
                notes=[f"its steps: {', '.join(known)}"],
                help=did_you_mean(step, known),
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
        on_error: OnError | None = None,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Stream:
        """Where rows come from; options are the connector's config.

        type: a name that `dataflare connectors` lists, or a connector class of your own, which is
        registered. schema: column to type, a contract. config: options whose names this method has.
        """
        step = given(
            schema=schema,
            event_time=event_time,
            description=description,
            on_error=on_error,
            error_handling=error_handling,
        )
        self._connect("sources", name, type, {**(config or {}), **options}, step)
        return Stream(self, name)

    def frame(self, name: str, rows: pl.DataFrame | Sequence[pl.DataFrame]) -> Stream:
        """Rows that are already here: a Polars DataFrame, or several of one schema, one per split.
        They stay in this process, under the name `WORKFLOW.NAME`."""
        from dataflare.connectors import memory

        store = f"{self.name}.{name}"
        memory.put(store, rows)
        return self.source(name, "memory", config={"name": store})

    def param(self, name: str, type: str = "string", **options: Any) -> str:
        """Declare a parameter (options: default, description, ...) and get it as a variable, to be
        put where its value is wanted."""
        site = call_site()
        self._put(self._section("params", site), name, {"type": type, **options}, site)
        return f"${{param:{name}}}"

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
        self._put(self._tree, "tests", [*self._tree.get("tests", ()), written(body, site)], site)

    def _connect(
        self,
        section: str,
        name: str,
        connector: Any,
        config: Mapping[str, Any],
        step: dict[str, Any],
        reads: Sequence[Stream] = (),
    ) -> None:
        if not isinstance(connector, str):
            from dataflare.sdk.registry import register

            connector = register(connector).type
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
        made = written(value, site)
        place = site.literal(key) or site.spot if site else None
        if isinstance(made, SpotMap):
            made.spot = place
        node.put(key, made, place, getattr(made, "spot", None) or (site.spot if site else None))

    # -- using it

    @pointing_out
    def build(self, params: Mapping[str, Any] | None = None) -> Model:
        """The validated model, the same that the YAML gives. Raises what is wrong, all at once."""
        loader = _Loader(None, None)
        return loader.finish(self._tree, params, (), (), file=self.file, base=self.base)

    def to_json(self, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The model as plain data, for people and APIs: secrets by name, passwords hidden."""
        return self.build(params).to_json()

    @pointing_out
    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The workflow as the text of a file, which is also written to `path` if one is given.

        Variables and secrets are as written, never their values. Raises ConfigError (E0408) for a
        function that only this process knows.
        """
        self._refuse_own_connectors()
        for name, step in (self._tree.get("transformations") or {}).items():
            function = str((step.get("config") or {}).get("function", ""))
            if step.get("type") == "python" and is_kept_here(function):
                raise ConfigError(
                    f"the function of step '{name}' is known to this process only",
                    code="E0408",
                    step=name,
                    help="put it into a module of its own, and import it from there",
                )
        text = to_yaml(self.to_tree())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _refuse_own_connectors(self) -> None:
        """Raise ConfigError (E0408) for a connector class that only this process has registered."""
        from dataflare.sdk import registry

        known = {"sources": registry.source_types(), "destinations": registry.destination_types()}
        for section, types in known.items():
            for name, step in (self._tree.get(section) or {}).items():
                type_ = str(step.get("type"))
                if type_ not in types and registry.is_registered(section[:-1], type_):
                    raise ConfigError(
                        f"the class of step '{name}' is known to this process only",
                        code="E0408",
                        step=name,
                        help='name it in the file: type: python, config: {function: "module:Class"}',
                    )

    def to_tree(self) -> dict[str, Any]:
        """The sections as they were written, in the order of a file."""
        ordered = {key: self._tree[key] for key in _ORDER if key in self._tree}
        return {**ordered, **self._tree}

    @pointing_out
    def plan(self, params: Mapping[str, Any] | None = None) -> DrawnPlan:
        """What would run: opens sources for their schemas, checks everything, runs nothing."""
        from dataflare import plan

        model = self.build(params)
        return DrawnPlan(_outside_of_loops(lambda: plan(model)))

    @pointing_out
    def preview(
        self, step: str | Stream, rows: int = 20, params: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """The first rows that leave a step, writing nowhere."""
        from dataflare import preview

        model = self.build(params)
        name = step if isinstance(step, str) else step.ref
        return _outside_of_loops(lambda: preview(model, name, rows))

    @pointing_out
    def run(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        fresh: bool = False,
        adopt: bool = False,
        for_s: float | None = None,
        check: bool = True,
    ) -> Outcome:
        """Run it here and now, to its end or for `for_s` seconds.

        home: where state and history lie; if not given $DATAFLARE_HOME, else `.dataflare` in the
        working directory, or beside the file of a workflow that was loaded from one. fresh: start
        over instead of resuming an unfinished run. adopt: go on where another home stopped that wrote
        the destinations. check: raise the error of a run that failed; else
        it is in the outcome.
        """
        from dataflare import RunOptions, run
        from dataflare.checkpoint.home import home_of
        from dataflare.connectors import memory

        model = self.build(params)
        stores = {
            name: str(step.config.get("name") or name)
            for name, step in model.destinations.items()
            if step.type == "memory"
        }
        before = {name: memory.committed(store).height for name, store in stores.items()}
        options = RunOptions(
            home=Path(home).absolute() if home else home_of(self.file),
            fresh=fresh,
            adopt=adopt,
            for_s=for_s,
        )
        result = _outside_of_loops(lambda: run(model, options))
        if check and result.error is not None:
            raise result.error
        kept = {name: memory.committed(store).slice(before[name]) for name, store in stores.items()}
        return Outcome(result, kept)


def _outside_of_loops(work: Callable[[], _Result]) -> _Result:
    """The result of work that starts an event loop; on a thread of its own where one runs already,
    as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    done: list[_Result] = []
    failed: list[BaseException] = []

    def on_thread() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=on_thread, name="dataflare-workflow")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
