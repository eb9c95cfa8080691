"""What S3 tells of new objects, through a queue of SQS.

Always true: an event only says where to look: what is there decides what is read. A message is deleted when its objects were checked,
so an event may be lost with a run that dies; a run lists all objects when it begins, and finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from pydantic import Field

from dataflare.errors import SystemError_
from dataflare.model.units import Duration
from dataflare.sdk.aws.options import AwsOptions

_AT_ONCE = 10


class EventOptions(AwsOptions):
    """The queue to which the bucket sends its events."""

    queue: str = Field(
        min_length=1, description="the name of a queue of SQS, or its URL; of this workflow alone"
    )
    listing: Duration = Field(
        3600.0,
        gt=0,
        description="how often all objects are listed beside that, because an event may come late or not at all",
    )


class ObjectEvents:
    """Of one source. All calls block."""

    def __init__(self, options: EventOptions, step: str) -> None:
        from dataflare.sdk.aws.client import client

        self._options, self._step = options, step
        self._place = f"queue '{options.queue.rpartition('/')[2]}' of SQS at {options.server}"
        self._sqs: Any = client("sqs", options, step, calls=1)
        self._url: str | None = options.queue if "/" in options.queue else None

    def take(self) -> dict[str, set[str]]:
        """What was told since the last call: by store, the paths of objects that were written. Raises SystemError_."""
        told: dict[str, set[str]] = {}
        while messages := self._ask(
            "receive_message", MaxNumberOfMessages=_AT_ONCE, VisibilityTimeout=60
        ).get("Messages", ()):
            for message in messages:
                for bucket, key in self._objects(message["Body"]):
                    told.setdefault(f"s3://{bucket}", set()).add(key)
            handles = [
                {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
                for number, each in enumerate(messages)
            ]
            self._ask("delete_message_batch", Entries=handles)
        return told

    def _ask(self, call: str, **arguments: Any) -> Any:
        from dataflare.sdk.aws.client import aws_errors

        with aws_errors(self._place, "'events.queue'"):
            if self._url is None:
                self._url = self._sqs.get_queue_url(QueueName=self._options.queue)["QueueUrl"]
            return getattr(self._sqs, call)(QueueUrl=self._url, **arguments)

    def _objects(self, body: str) -> Iterator[tuple[str, str]]:
        try:
            yield from objects_of(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SystemError_(
                f"{self._place} has a message that is not an event of S3: {body[:100]!r}",
                code="E0611",
                step=self._step,
                help="let the bucket's events alone go to this queue, and remove the message",
            ) from None


def objects_of(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The bucket and the key of each object that was written, in an event of S3 that came to the queue itself, through SNS or through
    EventBridge. Raises ValueError, KeyError or TypeError for what is none."""
    if event.get("Type") == "Notification":
        event = json.loads(event["Message"])
    if event.get("Event") == "s3:TestEvent":
        return
    if event.get("source") == "aws.s3":
        if event["detail-type"] == "Object Created":
            yield event["detail"]["bucket"]["name"], event["detail"]["object"]["key"]
        return
    for record in event["Records"]:
        if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
            yield record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"])
