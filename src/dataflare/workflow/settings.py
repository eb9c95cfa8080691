"""The settings of a workflow and of a step, with their defaults.

Always true: a missing setting has the default of the format page; durations are float seconds, sizes
are bytes. These classes are only data; the engine and the jobs use them.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dataflare.model.types import RESERVED
from dataflare.model.units import ByteRate, Duration, Rate, Size, parse_byte_rate, parse_rate
from dataflare.model.width import COLUMNS_MAX
from dataflare.observability.conditions import parse_condition
from dataflare.resilience.policy import RetryPolicy

Guarantee = Literal["exactly_once", "effectively_once", "at_least_once", "at_most_once"]


PARALLELISM_MAX = 128
WORKERS_MAX = 1000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Checkpoint(_Model):
    """When checkpoints are taken, and where they are stored."""

    interval: Duration = Field(
        default=10.0,
        gt=0,
        description="time from the beginning of a checkpoint to that of the next one",
    )
    retain: int = Field(default=3, ge=1, description="how many checkpoints are kept")
    storage: str | None = Field(
        default=None,
        description="a folder, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; null: $DATAFLARE_HOME",
    )
    incremental: bool = Field(
        default=True, description="write only what changed; false is refused in this version"
    )
    timeout: Duration = Field(default=60.0, gt=0, description="give up a checkpoint after this")


class Restart(_Model):
    """How often a job is restarted after an error that may be retried."""

    attempts: int = Field(default=3, ge=0, description="restarts within the window")
    delay: Duration = Field(default=1.0, description="wait before the first restart; doubles")
    max_delay: Duration = Field(default=60.0, description="the longest wait")
    window: Duration = Field(default=600.0, description="attempts older than this are forgotten")


class State(_Model):
    """Where operators store their state."""

    backend: Literal["memory", "rocksdb", "sqlite"] = Field(
        default="memory",
        description="where state is looked up by key: memory has it in memory, and on disk what the budget has no "
        "room for; rocksdb and sqlite have it in files",
    )
    path: str | None = Field(
        default=None,
        description="a folder for files that a run needs only while it lives; null: beside its checkpoints",
    )
    standby: int = Field(
        default=0,
        ge=0,
        le=3,
        description="with workers: on so many other machines the state of each is kept too, so that a run that loses one goes on "
        "without reading it from shared storage",
    )
    adopt: Literal["refuse", "auto"] = Field(
        default="refuse",
        description="what a run does if another state folder wrote the destinations: auto continues "
        "that run, as `run --adopt`",
    )


class Batch(_Model):
    """The number of rows in a batch, and how it adapts."""

    initial: int = Field(default=1000, ge=1, description="rows in the first batches")
    min: int = Field(default=100, ge=1, description="never fewer rows are asked for")
    max: int = Field(default=100_000, ge=1, description="never more rows are asked for")
    latency_target: Duration = Field(default=0.02, gt=0, description="time to process a batch")
    throughput_target: float | None = Field(default=None, gt=0, description="rows per second")
    adaptation_rate: float = Field(default=0.2, gt=0, le=1, description="share of a step taken")
    evaluation_interval: Duration = Field(default=5.0, gt=0, description="time between two looks")
    stability_threshold: int = Field(default=10, ge=1, description="looks without change to settle")

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if not self.min <= self.max:
            raise ValueError(f"'min' ({self.min}) is above 'max' ({self.max})")
        if not self.min <= self.initial <= self.max and "initial" in self.model_fields_set:
            raise ValueError(f"'initial' ({self.initial}) is not between 'min' and 'max'")
        return self


class Backpressure(_Model):
    """The limit of rows between two tasks."""

    mode: Literal["fixed", "dynamic", "adaptive"] = Field(default="adaptive")
    initial_credits: int = Field(
        default=10_000, ge=1, description="rows a writer may send at first"
    )
    min_credits: int = Field(default=100, ge=1)
    max_credits: int = Field(default=1_000_000, ge=1)
    refill_rate: float | None = Field(default=None, gt=0, description="credits per second")
    refill_interval: Duration = Field(default=0.05, gt=0)
    memory_threshold: float = Field(
        default=0.7, gt=0, le=1, description="share of the memory budget"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Backpressure:
        if not self.min_credits <= self.max_credits:
            raise ValueError(
                f"'min_credits' ({self.min_credits}) is above 'max_credits' ({self.max_credits})"
            )
        return self


def cpu_count() -> int:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class Resources(_Model):
    """The memory and threads that a job may use."""

    memory: Size = Field(default=2**30, gt=0, description="budget for rows and state")
    threads: int = Field(default_factory=cpu_count, ge=1, description="threads for computing")
    columns: int = Field(
        default=COLUMNS_MAX,
        ge=1,
        description="the most columns that the rows of a source may have, fields of structs included",
    )
    disk: Size | None = Field(
        default=None,
        gt=0,
        description="the most that a run may have on the disk of this machine: its state, the rows that destinations keep "
        "until they are committed, and its dead letters. Above that it fails and keeps its last checkpoint. null: no limit",
    )


class WorkerResources(_Model):
    """What each worker asks the cluster for."""

    cpu: float = Field(default=1.0, gt=0, description="processors")
    memory: Size | None = Field(default=None, gt=0, description="memory")
    label: str | None = Field(default=None, description="a resource that its node must have")


class Autoscale(_Model):
    """How many workers a run has, by its load."""

    min: int = Field(default=1, ge=1, le=WORKERS_MAX, description="never fewer workers")
    max: int = Field(ge=1, le=WORKERS_MAX, description="never more workers")
    target_busy: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="how much of their time the tasks of the busiest step work",
    )
    lag_max: Duration = Field(
        default=60.0, gt=0, description="one more worker while event time is later than this"
    )
    grow_after: Duration = Field(
        default=15.0, ge=1, description="more workers come when they are needed for so long"
    )
    shrink_after: Duration = Field(
        default=300.0, ge=1, description="workers go when they are not needed for so long"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Autoscale:
        if self.min > self.max:
            raise ValueError(f"'min' ({self.min}) is above 'max' ({self.max})")
        return self


class ClusterTls(_Model):
    """TLS between the job and the workers of a cluster: files in PEM, which every node has under the same paths. A relative path
    begins at the workflow's folder."""

    cert: str = Field(min_length=1, description="the certificate that this node shows")
    key: str = Field(min_length=1, description="its private key, without a passphrase")
    ca: str = Field(
        min_length=1, description="the authority that has signed the certificates of all nodes"
    )


class Cluster(_Model):
    """The workers of a run with `--cluster`."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=WORKERS_MAX,
        description="at the start; one for each free processor if not given, or the 'min' of autoscale",
    )
    placement: Literal["spread", "pack"] = Field(
        default="spread", description="on as many nodes as there are, or on few"
    )
    resources: WorkerResources = Field(default_factory=WorkerResources)
    autoscale: Autoscale | None = Field(
        default=None, description="more and fewer workers by the load of the run"
    )
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="among jobs that wait for room, the one with the highest gets it first",
    )
    share: bool = Field(
        default=False,
        description="a small job: each of its workers is a process in which other such jobs run too, as long as the "
        "`resources.cpu` of all fit on a processor",
    )
    tls: ClusterTls | None = Field(
        default=None,
        description="links between the job and its workers are encrypted, and both sides show a certificate",
    )
    cache: Size = Field(
        default=4 * 2**30,
        gt=0,
        description="how much of the state that is in a bucket may also be on the disk of each node, so that it is not fetched "
        "again",
    )


class Degrade(_Model):
    """What a run leaves out while it cannot keep up."""

    when: str = Field(
        description="a condition as of an alert, such as `lag > 5m for 1m` or `queued_rows > 1000000`"
    )
    sample: float = Field(gt=0, lt=1, description="so much of the sources' rows goes on")
    recover_after: Duration = Field(
        default=30.0, description="all rows go on again when the condition has not held for so long"
    )

    @field_validator("when")
    @classmethod
    def _parsed(cls, when: str) -> str:
        condition = parse_condition(when)
        if condition.is_usual or condition.is_of_whole_run:
            raise ValueError(
                "it must be known at each moment of the run: 'lag > 5m', 'errors > 9 in 1m'"
            )
        return when


class DeadLetter(_Model):
    """Where dead letters are written: a folder, or any destination."""

    path: str | None = Field(default=None, description="a folder for dead letters")
    type: str | None = Field(default=None, description="a destination's type")
    config: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="that destination's config"
    )

    @model_validator(mode="after")
    def _one(self) -> DeadLetter:
        if (self.path is None) == (self.type is None):
            raise ValueError("give either 'path', or 'type' and 'config'")
        if self.type is None and self.config:
            raise ValueError("'config' belongs to 'type'")
        return self


class CircuitBreaker(_Model):
    """When calls to a failing system stop for a while."""

    failure_rate: float = Field(default=0.5, gt=0, le=1, description="share of failed calls")
    window: Duration = Field(default=60.0, gt=0, description="calls within this time count")
    slow_call: Duration | None = Field(
        default=None, gt=0, description="a call that takes so long is slow, and counts as failed"
    )
    slow_call_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of slow calls; then they do not count as failed",
    )
    recovery: Duration = Field(default=30.0, gt=0, description="time until the next try")
    trial_calls: int = Field(
        default=1, ge=1, description="so many calls must succeed before all are made again"
    )
    fallback: str | None = Field(
        default=None,
        min_length=1,
        description="what is done instead of waiting: dead_letter, of a destination that sends rows as they come: they "
        "become dead letters; the name of another destination, which has this one in its `inputs`: they go there; stale, of a "
        "lookup with a cache: answers older than its ttl are used",
    )

    @model_validator(mode="after")
    def _slow_is_said(self) -> CircuitBreaker:
        if self.slow_call_rate is not None and self.slow_call is None:
            raise ValueError("'slow_call_rate' needs 'slow_call': how long a slow call takes")
        return self


_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def _errors_max(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if value.isdecimal():
            return int(value)
        match = _PERCENT.fullmatch(value.strip())
        if match is not None and float(match.group(1)) <= 100:
            return float(match.group(1)) / 100
    raise ValueError("expected a number of rows such as 1000, or a share such as 1%")


MaxErrors = Annotated[
    int | float,
    BeforeValidator(_errors_max),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*%?$"},
            ],
            "description": "a number of rows such as 1000, or a share such as 1%",
        }
    ),
]
"""An int is a number of rows, a float a share of the step's rows (0.01 for 1%)."""


class ErrorHandling(_Model):
    """What happens to rows and calls that fail. Missing fields are taken from the settings."""

    retry_count: int | None = Field(default=None, ge=0, description="tries after the first one")
    retry_policy: RetryPolicy | None = Field(default=None)
    backoff: Literal["fixed", "linear", "exponential"] = Field(default="exponential")
    on_error: Literal["fail", "skip", "dead_letter"] = Field(
        default="fail", description="what happens to a row that cannot be processed"
    )
    dead_letter: DeadLetter | None = Field(default=None)
    max_errors: MaxErrors | None = Field(default=None, description="fail above this")
    circuit_breaker: CircuitBreaker | None = Field(default=None)

    @model_validator(mode="after")
    def _one_policy(self) -> ErrorHandling:
        if self.retry_count is not None and self.retry_policy is not None:
            raise ValueError("'retry_count' and 'retry_policy' mean the same: give one of them")
        return self

    @property
    def retries(self) -> RetryPolicy | None:
        """The retry policy for calls of the step's system. None if it is not set."""
        if self.retry_policy is not None:
            backoff = (
                self.backoff if "backoff" in self.model_fields_set else self.retry_policy.backoff
            )
            return self.retry_policy.model_copy(update={"backoff": backoff})
        if self.retry_count is None:
            return None
        return RetryPolicy(max_attempts=self.retry_count + 1, backoff=self.backoff)

    def over(self, default: ErrorHandling) -> ErrorHandling:
        """This error handling, with missing fields taken from `default`."""
        fields_set = self.model_fields_set
        retries = {"retry_count", "retry_policy"}
        merged = {
            name: getattr(default, name)
            for name in default.model_fields_set - fields_set
            if not (name in retries and fields_set & retries)
        }
        return self.model_copy(update=merged)


class RateLimit(_Model):
    """The highest rate of a source or a destination."""

    rows: Rate | None = Field(default=None, description="rows, such as 1000/s")
    bytes: ByteRate | None = Field(default=None, description="bytes of rows, such as 10MiB/s")

    @model_validator(mode="after")
    def _limits(self) -> RateLimit:
        if self.rows is None and self.bytes is None:
            raise ValueError("give 'rows', 'bytes' or both")
        return self

    @classmethod
    def of_text(cls, text: str) -> RateLimit:
        """From `1000/s`, or `10MiB/s`. Raises ValueError."""
        size = text.partition("/")[0].strip()
        if size.endswith(("B", "b")):
            return cls.model_construct(rows=None, bytes=parse_byte_rate(text))
        return cls.model_construct(rows=parse_rate(text), bytes=None)


class EventTime(_Model):
    """The column of a source with the event time of a row."""

    column: str = Field(
        description="a timestamp column, or an expression that gives one: to_timestamp(ts)"
    )
    out_of_orderness: Duration = Field(default=0.0, description="how late a row may come in order")
    idle_timeout: Duration | None = Field(
        default=None, description="a split that gives no rows for so long holds nothing back"
    )
    max_drift: Duration | None = Field(
        default=None, description="a reader further ahead of the slowest one waits"
    )
    max_future: Duration | None = Field(
        default=86400.0, description="a row further ahead of the clock is refused"
    )


class Settings(_Model):
    """How a workflow runs."""

    mode: Literal["auto", "batch", "streaming"] = Field(
        default="auto", description="auto: batch if all sources are bounded"
    )
    parallelism: int = Field(
        default_factory=lambda: min(PARALLELISM_MAX, cpu_count()),
        ge=1,
        le=PARALLELISM_MAX,
        description="subtasks of each keyed or splittable step",
    )
    guarantee: Guarantee | None = Field(
        default=None, description="refuse to start if a destination cannot give it"
    )
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    restart: Restart = Field(default_factory=Restart)
    state: State = Field(default_factory=State)
    batch: Batch = Field(default_factory=Batch)
    backpressure: Backpressure = Field(default_factory=Backpressure)
    resources: Resources = Field(default_factory=Resources)
    cluster: Cluster = Field(default_factory=Cluster)
    degrade: Degrade | None = Field(
        default=None, description="what is left out while the run cannot keep up"
    )
    schema_change: Literal["evolve", "ignore", "fail", "dead_letter"] = Field(
        default="evolve",
        description="fields that come after a source's sample, and columns that a destination's table "
        "lacks: evolve adds them, ignore leaves them out, fail refuses them, dead_letter takes out the "
        "rows that have values there. Where a workflow says evolve itself, columns of a table also become wider",
    )
    error_handling: ErrorHandling = Field(
        default_factory=ErrorHandling, description="the default of every step"
    )
    run_column: str | None = Field(
        default=None,
        min_length=1,
        description="a column that every destination gets besides those of its rows: the id of the run that wrote the row",
    )

    @field_validator("run_column")
    @classmethod
    def _not_reserved(cls, name: str | None) -> str | None:
        if name is not None and name.startswith(RESERVED):
            raise ValueError(f"names that begin with '{RESERVED}' are reserved")
        return name

    @model_validator(mode="after")
    def _fallback_of_a_step(self) -> Settings:
        breaker = self.error_handling.circuit_breaker
        if breaker is not None and breaker.fallback is not None:
            raise ValueError("'fallback' belongs in the 'error_handling' of one step")
        return self

    @property
    def widens_types(self) -> bool:
        """Whether columns of tables become wider: `evolve` was set, and is not just the default."""
        return self.schema_change == "evolve" and "schema_change" in self.model_fields_set
