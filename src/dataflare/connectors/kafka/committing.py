"""Commit epochs: the messages of their redo files and the marker, in one transaction.

Kafka gives up the open transaction of a client that died, so the rows of an epoch are in a redo file first, and a
transaction lives only while an epoch is committed.

Always true:
- after a crash, the topics have the messages of an epoch if and only if the marker of the step has the epoch;
- a producer that was replaced by that of a newer attempt, or of another state folder, cannot commit;
- a marker is not taken for the last one while a later one may be hidden behind an open transaction;
- after any error the producer is discarded: a new one first ends the transaction of the old one, and then the marker
  says whether the epoch is there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer
from msgspec.structs import replace

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.connectors.kafka.errors import FENCED, error_of
from dataflare.connectors.kafka.markers import (
    MarkerRecord,
    ensure_marker_topic,
    marker_key,
    read_markers,
)
from dataflare.connectors.kafka.sending import Sender, producer_settings
from dataflare.errors import CheckpointError, DataFlareError, Retry, SystemError_
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Epoch,
    Marker,
    Owner,
    fenced_by_other,
    refuse_older,
)
from dataflare.sdk.sql import redo
from dataflare.sdk.threads import in_thread

_ABORT_S = 5.0
_LOOK_S = 0.2
_CLEANUP_S = 30.0
"""Brokers look each 10 s by default for transactions whose time is up."""


class EpochCommitter(Committer):
    """place: the topics, to show and to tell owners apart. batch_bytes: how large a batch of messages may be."""

    def __init__(
        self,
        client: KafkaClient,
        config: KafkaDestinationConfig,
        context: DestinationContext,
        place: str,
        batch_bytes: Callable[[], int],
    ) -> None:
        self._batch_bytes = batch_bytes
        self._client, self._config, self._context, self._place = client, config, context, place
        self._producer: Producer | None = None
        self._own: MarkerRecord | None = None
        self._rows = 0

    # -- what is there -----------------------------------------------------------------------------

    async def marker(self) -> Marker | None:
        own, _ = await in_thread(self._markers)
        if own is None:
            return None
        self._rows = own.rows_total
        return own.marker()

    async def owner(self) -> Owner | None:
        _, other = await in_thread(self._markers)
        return None if other is None else other.owner()

    def _markers(self) -> tuple[MarkerRecord | None, MarkerRecord | None]:
        """The marker of this lineage, and the newest one of another lineage of the same workflow, step and
        place."""
        records = self._records()
        others = [record for record in records.values() if self._is_other(record)]
        return records.get(self._key), others[-1] if others else None

    @property
    def _key(self) -> bytes:
        return marker_key(self._context.lineage, self._context.step)

    def _records(self) -> Mapping[bytes, MarkerRecord]:
        """The markers, as soon as it is sure what those of this step and place are.

        One that lies behind the beginning of an open transaction may be committed, so the end of that transaction is
        waited for. One of this lineage may be in a transaction that an earlier producer left open: a new producer ends
        it at once. Raises SystemError_ (E0608) if other transactions stay open.
        """
        until = time.monotonic() + self._config.transaction_timeout + _CLEANUP_S
        while True:
            markers = read_markers(self._client, self._config.marker_topic)
            hidden = [
                (key, record)
                for key, record in markers.hidden
                if key == self._key or (record is not None and self._is_other(record))
            ]
            if not hidden:
                return markers.records
            if self._producer is None and all(self._may_end(*each) for each in hidden):
                self._open_producer()
            elif time.monotonic() > until:
                raise self._stays_open()
            else:
                time.sleep(_LOOK_S)

    def _may_end(self, key: bytes, record: MarkerRecord | None) -> bool:
        """Whether the transaction with this marker is not one of a newer attempt, or of another lineage."""
        return key == self._key and (record is None or record.attempt <= self._context.attempt)

    def _stays_open(self) -> DataFlareError:
        return SystemError_(
            f"topic '{self._config.marker_topic}' of Kafka at {self._client.servers} has an open transaction of another "
            f"producer, behind which the last marker of step '{self._context.step}' may be hidden",
            code="E0608",
            step=self._context.step,
            retry=Retry.LATER,
            help="wait until it has ended, at the latest after its producer's transaction timeout; or end it with "
            "kafka-transactions.sh abort",
        )

    def _is_other(self, record: MarkerRecord) -> bool:
        context = self._context
        return (
            bool(context.workflow)
            and record.lineage != context.lineage
            and (record.workflow, record.step, record.place)
            == (context.workflow, context.step, self._place)
        )

    def _check(self) -> MarkerRecord | None:
        """The own marker. Raises RunError (E0804) where another attempt or lineage has taken over."""
        own, other = self._markers()
        context = self._context
        if other is not None:
            raise fenced_by_other(context.step, self._place)
        if own is not None:
            refuse_older(context.step, (context.attempt, context.token), (own.attempt, own.token))
        return own

    # -- beginnings --------------------------------------------------------------------------------

    async def supersede(self, epoch: int) -> None:
        await in_thread(self._supersede, epoch)

    def _supersede(self, epoch: int) -> None:
        producer = self._open_producer()
        records = self._records()
        own = records.get(self._key)
        with self._transaction(producer):
            for record in records.values():
                if self._is_other(record):
                    producer.produce(self._config.marker_topic, None, record.key)
            self._write_marker(producer, own or self._record(epoch, 0))

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        rows_kept = sum(int(c.data["rows_total"]) for c in committables) if committables else None
        await in_thread(self._recover, epoch, rows_kept)

    def _recover(self, epoch: int, rows_kept: int | None) -> None:
        redo.clear_after(self._context.redo, epoch)
        self._check()
        producer = self._open_producer()
        # The producers before this one cannot change the markers any more.
        own = self._check()
        if own is not None and own.epoch > epoch and own.rows_total:
            raise CheckpointError(
                f"the destination of step '{self._context.step}' contains checkpoint {own.epoch}, and the run "
                f"continues from checkpoint {epoch}: messages cannot be removed from {self._place}",
                code="E0705",
                step=self._context.step,
                help="check the messages of the topic, then run with --fresh",
            )
        there = epoch if own is None else min(own.epoch, epoch)
        # In a new lineage nothing of the epoch before it is missing.
        there = there if own is not None or rows_kept is None else 0
        rows = own.rows_total if own is not None else 0
        record = self._record(there, rows)
        if own is not None and own.epoch == there:
            record = replace(record, manifest=own.manifest)
        with self._transaction(producer):
            self._write_marker(producer, record)
        self._rows = rows_kept or 0

    # -- epochs ------------------------------------------------------------------------------------

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await in_thread(self._commit, epoch, committables)

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        files = [redo.RedoFile.of(each) for each in committables]
        rows = sum(file.rows for file in files)
        total = sum(int(each.data["rows_total"]) for each in committables)
        if rows or epoch.final:
            producer = self._producer or self._again()
            own = self._own
            if own is None or own.epoch < epoch.number:
                self._check_total(own, total - rows)
                with self._transaction(producer):
                    sender = Sender(producer, self._client)
                    for file in files:
                        for frame in redo.frames(self._context.redo, file):
                            sender.send(frame)
                    crash_point("kafka.commit.before_marker")
                    self._write_marker(
                        producer,
                        replace(self._record(epoch.number, total), manifest=epoch.manifest),
                    )
                    crash_point("kafka.commit.before_commit")
                crash_point("kafka.commit.after_commit")
        self._rows = total
        redo.clear_before(self._context.redo, epoch.number + (1 if epoch.final else 0))

    def _check_total(self, own: MarkerRecord | None, before: int) -> None:
        """Raises CheckpointError (E0705) where messages that were committed are not there."""
        there = own.rows_total if own is not None else 0
        if there < before:
            raise CheckpointError(
                f"topic '{self._config.marker_topic}' of Kafka at {self._client.servers} says that step "
                f"'{self._context.step}' has written {there:,} messages, and {before:,} were committed",
                code="E0705",
                step=self._context.step,
                notes=["the topic was deleted or emptied, or the cluster is another one"],
                help="check the messages of the topic, then run with --fresh",
            )

    def _again(self) -> Producer:
        """A new producer after an error, once it is sure that no newer attempt has taken over."""
        self._check()
        producer = self._open_producer()
        self._own = self._check()
        return producer

    # -- transactions ------------------------------------------------------------------------------

    def _open_producer(self) -> Producer:
        """A producer that ends what the last one of this step had open, and fences it."""
        context, client = self._context, self._client
        ensure_marker_topic(client, self._config.marker_topic)
        name = context.workflow or context.lineage
        with client.errors("begin transactions"):
            producer = Producer(
                producer_settings(
                    client,
                    self._batch_bytes(),
                    transactional_id=f"dataflare.{name}.{context.step}.{self._config.topic}",
                    transaction_timeout_ms=int(self._config.transaction_timeout * 1000),
                )
            )
            producer.init_transactions(client.config.timeout)
        self._producer = producer
        return producer

    @contextlib.contextmanager
    def _transaction(self, producer: Producer) -> Iterator[None]:
        """One transaction. After an error nothing of it is seen, or all: the marker tells."""
        try:
            producer.begin_transaction()
            yield
            producer.commit_transaction(max(self._client.config.timeout, _ABORT_S))
        except (KafkaException, BufferError) as error:
            self._give_up(producer)
            raise self._failed(error) from error
        except CheckpointError:
            self._give_up(producer)
            self._check()  # a newer attempt removes the redo files of this one
            raise
        except BaseException:
            self._give_up(producer)
            raise

    def _give_up(self, producer: Producer) -> None:
        """Discard the producer. Its transaction is aborted now, if the brokers can be reached, so that readers do not
        wait for it; else by the next producer, or when its time is up."""
        self._producer = None
        with contextlib.suppress(KafkaException):
            producer.purge()
            producer.abort_transaction(_ABORT_S)

    def _failed(self, error: KafkaException | BufferError) -> DataFlareError:
        found = error_of(error)
        if found is not None and found.code() in FENCED:
            self._check()
            return SystemError_(
                f"another producer of step '{self._context.step}' has ended this one's transaction",
                code="E0607",
                step=self._context.step,
                retry=Retry.LATER,
                help="let one run write at a time",
            )
        made = self._client.failed(error, f"commit to {self._place}")
        if found is not None and (found.txn_requires_abort() or found.retriable()):
            made.retry = Retry.LATER
        return made

    def _record(self, epoch: int, rows_total: int) -> MarkerRecord:
        context = self._context
        return MarkerRecord(
            lineage=context.lineage,
            step=context.step,
            attempt=context.attempt,
            token=context.token,
            epoch=epoch,
            rows_total=rows_total,
            workflow=context.workflow,
            place=self._place,
        )

    def _write_marker(self, producer: Producer, record: MarkerRecord) -> None:
        producer.produce(self._config.marker_topic, record.value(), record.key)
        self._own = record

    async def published(self) -> Mapping[str, Any]:
        return {"topic": self._config.topic, "rows": self._rows}

    async def aclose(self) -> None:
        self._producer = None
