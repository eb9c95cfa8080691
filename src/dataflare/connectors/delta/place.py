"""Where a table is, as deltalake takes it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.sdk.context import ConnectorContext, has_scheme
from dataflare.sdk.stores.options import StorageOptions

_SCHEMES = ("s3", "az", "gs")
_OPTIONS = {
    "endpoint": {"s3": "aws_endpoint_url", "az": "azure_storage_endpoint"},
    "anonymous": {"s3": "aws_skip_signature", "az": "azure_skip_signature", "gs": "google_skip_signature"},
    "region": {"s3": "aws_region"},
    "access_key_id": {"s3": "aws_access_key_id"},
    "secret_access_key": {"s3": "aws_secret_access_key"},
    "session_token": {"s3": "aws_session_token"},
    "account_name": {"az": "azure_storage_account_name"},
    "account_key": {"az": "azure_storage_account_key"},
    "sas_token": {"az": "azure_storage_sas_key"},
    "service_account": {"gs": "google_service_account"},
}  # fmt: skip


class DeltaAddress(Struct, frozen=True):
    """uri: for deltalake. label: for messages. key: the same for the same place. path: of a folder on this
    machine."""

    uri: str
    label: str
    options: tuple[tuple[str, str], ...]
    path: Path | None = None

    @property
    def key(self) -> str:
        return self.uri

    @property
    def storage(self) -> dict[str, str]:
        return dict(self.options)


def address_of(path: str, storage: StorageOptions, context: ConnectorContext) -> DeltaAddress:
    """Raises ConfigError: E0419 for a URL that is not of an object store, E0420 for options without use."""
    if not has_scheme(path):
        if given := sorted(storage.model_fields_set):
            raise _unused(given, path, context.step)
        local = context.path(path)
        return DeltaAddress(os.path.realpath(local), str(local), (), local)
    scheme = path.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"step '{context.step}' names '{path}', and Delta tables are folders or s3://, az:// and gs:// places",
            code="E0419",
            step=context.step,
            help="name a folder, or a URL of an object store",
        )
    if given := storage.unused_by(scheme):
        raise _unused(given, path, context.step)
    options: dict[str, str] = {}
    for name, value in storage.model_dump(exclude_none=True, exclude_defaults=True).items():
        options[_OPTIONS[name][scheme]] = "true" if value is True else str(value)
    endpoint = storage.endpoint or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        options["allow_http"] = "true"
    return DeltaAddress(path.rstrip("/"), path, tuple(sorted(options.items())))


def _unused(names: list[str], path: str, step: str) -> ConfigError:
    return ConfigError(
        f"step '{step}': {path} has no use for storage.{', storage.'.join(names)}",
        code="E0405",
        step=step,
        help="leave it out",
    )
