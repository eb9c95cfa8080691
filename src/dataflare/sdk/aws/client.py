"""Clients of Amazon's services, and their errors as DataFlare's.

Always true: a message contains no part of the credentials; a client belongs to one process, and is never pickled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from botocore import exceptions as said
from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.session import Session

from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.sdk.aws.options import AwsOptions

_SKEW_S = 2.0
"""How far this machine's clock may be from that of a service, which tells whole seconds."""
_ABSENT = ("QueueDoesNotExist", "NonExistentQueue", "ResourceNotFoundException")
_FORBIDDEN = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "KMSAccessDenied")
_LOGIN = (
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "AuthFailure",
    "OptInRequired",
)
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
BUSY = (
    "ThrottlingException",
    "Throttling",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "KMSThrottlingException",
    "LimitExceededException",
    "OverLimit",
)
"""Codes of errors that pass when less is asked."""
_CREDENTIALS_HELP = (
    "look at access_key_id and secret_access_key, at 'profile', or at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "in the environment"
)


def client(service: str, options: AwsOptions, step: str, *, calls: int, waits_s: float = 0) -> Any:
    """A client of a service. On any thread, because it reads files. calls: how many are made at a time. waits_s: how
    long the service may wait by itself before it answers. Raises ConfigError for a profile or a region that is
    missing."""
    region = options.region or os.environ.get("AWS_REGION")
    if options.endpoint is not None:
        region = region or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        session = Session(profile=options.profile)
        session.register_component("data_loader", _descriptions())
        return session.create_client(
            service,
            region_name=region,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
            endpoint_url=options.endpoint,
            config=Config(
                connect_timeout=options.timeout,
                read_timeout=options.timeout + waits_s,
                max_pool_connections=calls,
                retries={"total_max_attempts": 2, "mode": "standard"},
                user_agent_extra="dataflare",
            ),
        )
    except (said.ProfileNotFound, said.ConfigParseError) as error:
        raise ConfigError(
            f"step '{step}': {error}", code="E0405", step=step, help="look at 'profile'"
        ) from error
    except said.NoRegionError as error:
        raise ConfigError(
            f"step '{step}' does not know in which region the service is",
            code="E0405",
            step=step,
            help="set 'region', or AWS_REGION in the environment",
        ) from error


@cache
def _descriptions() -> Loader:
    """What describes the services, which takes 0.1 s to read: each process reads it once."""
    return create_loader()


@contextmanager
def aws_errors(place: str, names: str) -> Iterator[None]:
    """Convert the client's exceptions inside into DataFlare's errors. place: what is asked, to show. names: the options
    that name it."""
    try:
        yield
    except (said.BotoCoreError, said.ClientError) as error:
        raise translated(error, place, names) from error


def code_of(error: Exception) -> str:
    """The code by which a service names an error, without its prefix; empty where it is not one of a service."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", "")).rpartition(".")[2]


def told_by_service(code: str, text: str, place: str, names: str) -> DataFlareError | None:
    """The error for a code by which a service tells of itself or of who asks; None for another one."""
    code = code.rpartition(".")[2]
    if code in _ABSENT:
        return SystemError_(
            f"{place} does not exist",
            code="E0604",
            notes=[text],
            help=f"make it, or look at {names}, 'region' and 'endpoint'",
        )
    if code in _FORBIDDEN or code.upper().startswith("KMS"):
        return SystemError_(
            f"{place}: permission denied",
            code="E0602",
            notes=[text],
            help="grant the user or the role the right that is named",
        )
    if code in _EXPIRED:
        return SystemError_(
            f"{place}: the credentials have expired", code="E0606", help=_CREDENTIALS_HELP
        )
    if code in _LOGIN or code in ("401", "403"):
        return SystemError_(
            f"{place} refuses the login", code="E0606", notes=[text], help=_CREDENTIALS_HELP
        )
    return None


def translated(error: Exception, place: str, names: str) -> DataFlareError:
    """DataFlare's error for one of the client."""
    code, text = code_of(error), " ".join(str(error).split())[:400]
    busy = code in BUSY or _status(error) >= 500
    if not busy and (told := told_by_service(code, text, place, names)) is not None:
        return told
    credentials = (
        said.NoCredentialsError,
        said.PartialCredentialsError,
        said.CredentialRetrievalError,
        said.TokenRetrievalError,
        said.SSOError,
    )
    if isinstance(error, credentials):
        return SystemError_(
            f"{place}: no credentials: {text}", code="E0606", help=_CREDENTIALS_HELP
        )
    if isinstance(error, said.SSLError):
        return SystemError_(
            f"no TLS connection to {place}: {text}",
            code="E0609",
            help="name the file of the certificates to trust in AWS_CA_BUNDLE",
        )
    if isinstance(error, said.ConnectTimeoutError | said.ReadTimeoutError):
        return SystemError_(
            f"{place} did not answer in time",
            code="E0608",
            retry=Retry.LATER,
            help="check whether the service works, or raise 'timeout'",
        )
    if busy:
        return SystemError_(
            f"{place} takes no more now: {text}",
            code="E0607",
            retry=Retry.LATER,
            help="ask for higher limits of the service, or send less at a time",
        )
    if isinstance(error, said.HTTPClientError | said.ConnectionError):
        return SystemError_(
            f"no connection to {place}: {text}",
            code="E0607",
            retry=Retry.LATER,
            help="see whether 'region' and 'endpoint' are right, and the network is there",
        )
    return SystemError_(
        f"{place}: {text}",
        code="E0600",
        help="fix the cause that the service reports, and run again",
    )


def _status(error: Exception) -> int:
    answer = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def service_time(answer: Mapping[str, Any]) -> float:
    """The time of the service, in seconds since 1970: this machine's, unless it is far away from that of the answer."""
    here, text = time.time(), answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if text is None:
        return here
    there = parsedate_to_datetime(text).timestamp()
    return here if abs(here - there) < _SKEW_S else there
