"""What a run tells a catalogue of data, as events of OpenLineage: which data it reads and writes, with their columns, and which
columns come from which. Pure.

https://openlineage.io/docs/spec/object-model. Always true: an event has names, types, counts and codes, and no data.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dataflare.model.run_status import Status
from dataflare.model.types import Schema
from dataflare.operators.lookup import Lookup
from dataflare.planner.column_lineage import Column, column_lineage
from dataflare.planner.datasets import Dataset, dataset_of
from dataflare.planner.graph import DestinationNode, RowsNode, SourceNode

if TYPE_CHECKING:
    from dataflare.errors import DataFlareError
    from dataflare.observability.view import RunView
    from dataflare.planner import Plan
    from dataflare.planner.graph import Node
    from dataflare.workflow.model import Workflow

_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "schema": "1-2-0/SchemaDatasetFacet",
    "dataSource": "1-0-1/DatasourceDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "documentation": "1-1-0/DocumentationJobFacet",
}
"""By facet, the version of its schema."""
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENDS: dict[Status, str] = {"finished": "COMPLETE", "failed": "FAIL"}

Event = dict[str, Any]


class RunEvents:
    """The events of one run. plan: None of a run that failed before it had one; then its data is not known. namespace: of
    its job. version: of this program."""

    def __init__(
        self, workflow: Workflow, plan: Plan | None, run_id: str, namespace: str, version: str
    ) -> None:
        self._workflow, self._plan = workflow, plan
        self._namespace, self._version = namespace, version
        self._run_id = str(uuid_of(run_id))
        self._producer = f"urn:dataflare:{version}"

    def started(self, at_s: float) -> Event:
        return self._event("START", at_s, self._inputs(None), self._outputs(None))

    def running(self, view: RunView) -> Event:
        return self._event("RUNNING", view.at, self._inputs(view), self._outputs(view))

    def ended(self, view: RunView, status: Status, error: DataFlareError | None) -> Event:
        """A run that finished is complete, one that was stopped is aborted. Only the counts of a run that failed are left
        out: a part of its rows is not committed."""
        counted = view if status != "failed" else None
        facets: dict[str, Any] = {}
        if error is not None:
            where = f" in step '{error.step}'" if error.step else ""
            facets["errorMessage"] = self._facet(
                "errorMessage", message=f"{error.code}{where}", programmingLanguage="PYTHON"
            )
        return self._event(
            _ENDS.get(status, "ABORT"), view.at, self._inputs(counted), self._outputs(counted), facets
        )  # fmt: skip

    def _event(
        self,
        kind: str,
        at_s: float,
        inputs: list[Event],
        outputs: list[Event],
        facets: Mapping[str, Any] | None = None,
    ) -> Event:
        workflow = self._workflow
        engine = self._facet("processing_engine", name="DataFlare", version=self._version)
        job: dict[str, Any] = {}
        if self._plan is not None:
            job["jobType"] = self._facet(
                "jobType",
                processingType="BATCH" if self._plan.stages.bounded else "STREAMING",
                integration="DATAFLARE",
                jobType="JOB",
            )
        if workflow.description:
            job["documentation"] = self._facet("documentation", description=workflow.description)
        at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
        return {
            "eventType": kind,
            "eventTime": at.replace("+00:00", "Z"),
            "run": {"runId": self._run_id, "facets": {"processing_engine": engine, **(facets or {})}},
            "job": {"namespace": self._namespace, "name": workflow.name, "facets": job},
            "inputs": inputs,
            "outputs": outputs,
            "producer": self._producer,
            "schemaURL": _EVENT,
        }  # fmt: skip

    # -- datasets ------------------------------------------------------------------------------------

    @property
    def _nodes(self) -> Iterable[Node]:
        return self._plan.written if self._plan is not None else ()

    @cached_property
    def _read(self) -> dict[str, tuple[Dataset, Schema]]:
        """By source, stream of a source, or lookup: what it reads, and its columns."""
        found: dict[str, tuple[Dataset, Schema]] = {}
        for node in self._nodes:
            if isinstance(node, SourceNode):
                for output, schema in node.outputs.items():
                    step = node.step if output is None else f"{node.step}.{output}"
                    found[step] = (self._dataset(node.connector, step), schema)
            elif isinstance(node, RowsNode):
                for operator in node.operators:
                    if isinstance(operator, Lookup):
                        table = operator.table
                        step = table.source.context.step
                        found.setdefault(step, (self._dataset(table.source, step), table.schema))
        return found

    @cached_property
    def _written(self) -> dict[str, tuple[Dataset, Schema]]:
        return {
            node.step: (self._dataset(node.connector, node.step), node.written)
            for node in self._nodes
            if isinstance(node, DestinationNode)
        }

    def _dataset(self, connector: Any, step: str) -> Dataset:
        return dataset_of(connector, self._namespace, f"{self._workflow.name}.{step}")

    def _inputs(self, view: RunView | None) -> list[Event]:
        made: dict[Dataset, Event] = {}
        for step, (dataset, schema) in self._read.items():
            entry = made.setdefault(dataset, self._described(dataset, schema))
            seen = view.steps.get(step) if view is not None else None
            if seen is not None and seen.rows_out is not None:
                counted: dict[str, Any] = {"rowCount": seen.rows_out}
                if seen.bytes_out:
                    counted["size"] = seen.bytes_out
                entry["inputFacets"] = {
                    "inputStatistics": self._facet("inputStatistics", **counted)
                }
        return list(made.values())

    def _outputs(self, view: RunView | None) -> list[Event]:
        made: dict[Dataset, Event] = {}
        for step, (dataset, schema) in self._written.items():
            entry = made.setdefault(dataset, self._described(dataset, schema))
            lineage = self._lineage.get(step)
            if lineage is not None:
                entry["facets"]["columnLineage"] = lineage
            seen = view.steps.get(step) if view is not None else None
            if seen is not None and seen.rows_out is not None:
                counted: dict[str, Any] = {"rowCount": seen.rows_out}
                if seen.bytes_out:
                    counted["size"] = seen.bytes_out
                entry["outputFacets"] = {
                    "outputStatistics": self._facet("outputStatistics", **counted)
                }
        return list(made.values())

    def _described(self, dataset: Dataset, schema: Schema) -> Event:
        fields = [{"name": field.name, "type": str(field.type)} for field in schema]
        uri = dataset.namespace if "://" in dataset.namespace else f"{dataset.namespace}:"
        return {
            "namespace": dataset.namespace,
            "name": dataset.name,
            "facets": {
                "schema": self._facet("schema", fields=fields),
                "dataSource": self._facet("dataSource", name=dataset.namespace, uri=uri),
            },
        }

    @cached_property
    def _lineage(self) -> dict[str, Event]:
        """By destination, its facet. Conditions that all of its columns have are those of its rows."""
        made: dict[str, Event] = {}
        if self._plan is None:
            return made
        for step, columns in column_lineage(self._plan.written).items():
            if not columns:
                continue
            derived = [each for each in columns.values() if each.values or each.conditions]
            common = frozenset.intersection(*(each.conditions for each in derived)) if derived else frozenset[Column]()  # fmt: skip
            fields = {
                name: {
                    "inputFields": [
                        *self._fields(origins.values, "DIRECT"),
                        *self._fields(origins.conditions - common - origins.values, "INDIRECT"),
                    ]
                }
                for name, origins in columns.items()
                if origins.values or origins.conditions - common
            }
            made[step] = self._facet(
                "columnLineage", fields=fields, dataset=self._fields(common, "INDIRECT")
            )
        return made

    def _fields(self, columns: Iterable[Column], kind: str) -> list[Event]:
        return [
            {
                "namespace": dataset.namespace,
                "name": dataset.name,
                "field": column,
                "transformations": [{"type": kind}],
            }
            for step, column in sorted(columns)
            if step in self._read
            for dataset in (self._read[step][0],)
        ]

    def _facet(self, name: str, /, **values: Any) -> Event:
        kind = _FACETS[name]
        url = f"{_SPEC}/facets/{kind}.json#/$defs/{kind.partition('/')[2]}"
        return {"_producer": self._producer, "_schemaURL": url, **values}


def uuid_of(run_id: str) -> uuid.UUID:
    """The 128 bits of a run's id, as a UUID."""
    number = 0
    for digit in run_id:
        number = number * 32 + _DIGITS.index(digit)
    return uuid.UUID(int=number)
