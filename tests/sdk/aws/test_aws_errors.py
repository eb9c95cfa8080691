"""What Amazon's services say, as errors of DataFlare."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from optional_packages import package

said = package("botocore.exceptions")

from dataflare.errors import Retry  # noqa: E402
from dataflare.sdk.aws.client import translated  # noqa: E402

SERVICE = {
    ("AWS.SimpleQueueService.NonExistentQueue", 400): ("E0604", Retry.NEVER),
    ("ResourceNotFoundException", 400): ("E0604", Retry.NEVER),
    ("AccessDeniedException", 400): ("E0602", Retry.NEVER),
    ("ExpiredTokenException", 400): ("E0606", Retry.NEVER),
    ("UnrecognizedClientException", 400): ("E0606", Retry.NEVER),
    ("ProvisionedThroughputExceededException", 400): ("E0607", Retry.LATER),
    ("RequestThrottled", 400): ("E0607", Retry.LATER),
    ("InternalError", 500): ("E0607", Retry.LATER),
    ("InvalidAttributeValue", 400): ("E0600", Retry.NEVER),
}


@pytest.mark.parametrize("given", SERVICE, ids=lambda given: given[0])
def test_a_service_that_refuses(given: tuple[str, int]) -> None:
    code, status = given
    answer = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = translated(said.ClientError(answer, "Call"), "queue 'q'", "'queue'")
    assert (error.code, error.retry) == SERVICE[given]
    assert "queue 'q'" in str(error)


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (said.NoCredentialsError(), "E0606", Retry.NEVER),
        (said.SSLError(endpoint_url="https://x", error="bad"), "E0609", Retry.NEVER),
        (said.ReadTimeoutError(endpoint_url="https://x"), "E0608", Retry.LATER),
        (said.EndpointConnectionError(endpoint_url="https://x"), "E0607", Retry.LATER),
        (said.ConnectionClosedError(endpoint_url="https://x"), "E0607", Retry.LATER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_service_that_is_not_reached(error: Exception, code: str, retry: Retry) -> None:
    found = translated(error, "queue 'q'", "'queue'")
    assert (found.code, found.retry) == (code, retry)
