"""Convert errors of Kafka and its client into DataFlare's errors.

Always true: a message has no part of the config except the brokers' addresses and names of topics.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.security.redact import redact_pieces, text_of

_LOGIN = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
}
_RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_NO_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_ID,
}
_FORGOTTEN = {KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}
_AWAY = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._DESTROY,
    KafkaError._NOENT,  # "no leaders found", while connections break
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,  # a broker that has just started again
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
_SLOW = {
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._WAIT_COORD,
    KafkaError._WAIT_CACHE,
    KafkaError.REQUEST_TIMED_OUT,
}
UNANSWERED = _AWAY | _SLOW
FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
}


def error_of(error: Exception) -> KafkaError | None:
    """The client's own error in an exception, if it is one."""
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        found: KafkaError = error.args[0]
        return found
    return None


def translated(
    error: KafkaError | Exception,
    servers: str,
    *,
    doing: str = "",
    before: KafkaError | None = None,
) -> DataFlareError:
    """DataFlare's error for one of the client. doing: what was asked, such as "read topic 'orders'". before: what
    the client said of its connections, which tells more than a timeout does."""
    found = error if isinstance(error, KafkaError) else error_of(error)
    if found is None:
        text = text_of(error)
        return SystemError_(f"Kafka at {servers}: {text}", code="E0600", help="see what it says")
    code = found.code()
    if before is not None and (code in _SLOW or code in _AWAY):
        found, code = before, before.code()
    said = redact_pieces(" ".join(found.str().split()))
    what = f"{doing}: " if doing else ""
    if code in _LOGIN:
        return SystemError_(
            f"Kafka at {servers} refuses the login: {said}",
            code="E0606",
            help="look at mechanism, username and password in 'sasl'",
        )
    if code in _RIGHTS:
        return SystemError_(
            f"Kafka at {servers}: {what}the user lacks the right: {said}",
            code="E0602",
            help="grant the user the right",
        )
    if code == KafkaError._SSL or (code in _AWAY and _about_tls(said)):
        return SystemError_(
            f"no TLS connection to Kafka at {servers}: {said}",
            code="E0609",
            help="set 'tls' where the brokers speak it, and name the certificates to trust: tls: {ca: /path/to/ca.pem}",
        )
    if code in _NO_TOPIC:
        return SystemError_(
            f"Kafka at {servers}: {what}there is no such topic or partition: {said}",
            code="E0604",
            # The client forgets partitions while brokers are away; only a broker's word is final.
            retry=Retry.LATER if code in _FORGOTTEN else Retry.NEVER,
            help="look at 'topic'",
        )
    if code in _SLOW:
        return SystemError_(
            f"Kafka at {servers} did not answer in time: {what}{said}",
            code="E0608",
            retry=Retry.LATER,
            help="see whether the brokers work, or raise 'timeout'",
        )
    if code in _AWAY or found.retriable():
        return SystemError_(
            f"no connection to Kafka at {servers}: {what}{said}",
            code="E0607",
            retry=Retry.LATER,
            help="see whether the brokers run and 'bootstrap_servers' is right; behind a firewall, the addresses "
            "that the brokers advertise must be reachable too",
        )
    return SystemError_(
        f"Kafka at {servers}: {what}{said} ({found.name()})",
        code="E0600",
        help="fix the cause that the brokers report, and run again",
    )


def _about_tls(text: str) -> bool:
    lowered = text.lower()
    return (
        "ssl" in lowered
        or "certificate" in lowered
        or ("disconnected" in lowered and "tls" in lowered)
    )
