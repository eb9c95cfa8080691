"""Object stores through obstore: S3 and what speaks like it, Azure Blob, Google Cloud Storage.

Credentials, region and endpoint are those of the option `storage`; what is not given comes from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, replaced

_NAMES = {
    "s3": (
        "s3",
        "bucket",
        "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "az": ("azure", "container", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    "gs": ("gcs", "bucket", "GOOGLE_APPLICATION_CREDENTIALS"),
}
_FIELDS = {"session_token": "token", "sas_token": "sas_key", "anonymous": "skip_signature"}
_ODD_KEY = re.compile(r"invalid path: (?:Error parsing )?Path \"([^\"]+)\"")
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
_CLIENT: Any = {"allow_http": True, "timeout": "60s", "connect_timeout": "10s"}


class ObjectPlace(Store):
    """A bucket or a container. client: the library's object, for conditional writes."""

    def __init__(self, root: str, options: StorageOptions) -> None:
        super().__init__(root)
        self.scheme, _, self.bucket = root.partition("://")
        self.options = options
        try:
            import obstore
        except ImportError as error:
            raise ConfigError(
                f"{root} needs the library obstore",
                code="E0404",
                help=f"pip install 'dataflare[{_NAMES[self.scheme][0]}]'",
            ) from error
        self.library: Any = obstore
        with self.errors("opening", ""):
            self.client = self._client()

    def _client(self) -> Any:
        from obstore import store

        given = self.options.model_dump(
            exclude_none=True, exclude_defaults=True, exclude={"headers"}
        )
        config: Any = {_FIELDS.get(name, name): value for name, value in given.items()}
        rest: Any = {"client_options": _CLIENT, "retry_config": _RETRIES}
        match self.scheme:
            case "s3":
                return store.S3Store(self.bucket, config=config, **rest)
            case "az":
                return store.AzureStore(self.bucket, config=config, **rest)
        return store.GCSStore(self.bucket, config=config, **rest)

    def list(self, folder: str) -> Iterator[FileInfo]:
        with self.errors("listing", folder):
            found = [
                _info(each)
                for part in self.library.list(self.client, folder.rstrip("/") or None)
                for each in part
            ]
        # Folders that a console makes are empty objects whose names end in a slash.
        yield from sorted(
            (each for each in found if not each.path.endswith("/")), key=lambda each: each.path
        )

    def beside(self, folder: str) -> Iterator[FileInfo]:
        # A bucket may have millions of other objects below the folder.
        with self.errors("listing", folder):
            listed = self.library.list_with_delimiter(self.client, folder.rstrip("/") or None)
            found = [_info(each) for each in listed["objects"]]
        yield from sorted(
            (each for each in found if not each.path.endswith("/")), key=lambda each: each.path
        )

    def look(self, path: str) -> FileInfo | None:
        with self.errors("reading", path):
            try:
                return _info(self.library.head(self.client, path))
            except FileNotFoundError:
                # The answer to HEAD has no body, so it does not tell a missing bucket from a missing object.
                next(iter(self.library.list(self.client, path, chunk_size=1)), None)
                return None

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        from obstore.exceptions import NotFoundError, PreconditionError

        if start >= min(end, file.size):
            return b""
        options: Any = {"range": (start, min(end, file.size))}
        if file.etag is not None:
            options["if_match"] = file.etag
        with self.errors("reading", file.path):
            try:
                answer = self.library.get(self.client, file.path, options=options)
                if file.etag is None and not _info(answer.meta).is_version(file):
                    raise replaced(self.url(file.path))
                return bytes(answer.bytes())
            except PreconditionError:
                raise replaced(self.url(file.path)) from None
            except (NotFoundError, FileNotFoundError):
                raise replaced(self.url(file.path), "it is gone") from None

    @contextmanager
    def errors(self, doing: str, path: str) -> Iterator[None]:
        """Whatever goes wrong inside becomes a DataFlareError. doing: "reading", "writing"."""
        from obstore.exceptions import BaseError

        try:
            yield
        except DataFlareError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise self._translated(error, doing, path) from error

    def _translated(self, error: Exception, doing: str, path: str) -> DataFlareError:
        from obstore import exceptions as kinds

        text = " ".join(str(error).split())
        where = self.url(path)
        kind, variables = _NAMES[self.scheme][1:]
        if (
            "NoSuchBucket" in text
            or "ContainerNotFound" in text
            or "bucket does not exist" in text.lower()
        ):
            return SystemError_(
                f"there is no {kind} '{self.bucket}'",
                code="E0601",
                notes=[_reason(text)],
                help=f"check the name in {where}, and 'endpoint' if the server is not the provider's own",
            )
        if (
            "PermanentRedirect" in text
            or "AuthorizationHeaderMalformed" in text
            or "301" in text[:200]
        ):
            return SystemError_(
                f"the {kind} '{self.bucket}' is in another region",
                code="E0607",
                notes=[_reason(text)],
                help="set storage.region (or AWS_REGION) to the region of the bucket",
            )
        if (
            isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError)
            or "Forbidden" in text
        ):
            return SystemError_(
                f"permission denied: {doing} {where}",
                code="E0602",
                notes=[_reason(text)],
                help=f"check storage, or {variables} in the environment, and the rights of this user",
            )
        if isinstance(error, kinds.NotFoundError | FileNotFoundError):
            return SystemError_(
                f"no such file: {where}", code="E0601", help=f"check the name and the {kind}"
            )
        if (odd := _ODD_KEY.search(text)) is not None:
            return SystemError_(
                f"{self.url(odd[1])} has a name with an empty or relative part, and such objects cannot be listed",
                code="E0607",
                help=f"give that object another name, or use a path that is not above it: now it is {where}",
            )
        if isinstance(error, ValueError):
            return ConfigError(
                f"{where}: {_reason(text)}", code="E0405", help=f"check storage, or {variables}"
            )
        return SystemError_(
            f"{doing} {where} failed: {_reason(text)}",
            code="E0607",
            retry=Retry.LATER,
            help=f"check that the server answers, and storage, or {variables} in the environment",
        )


def _info(meta: Any) -> FileInfo:
    when = meta["last_modified"]
    mtime_ns = int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1_000
    return FileInfo(str(meta["path"]), meta["size"], mtime_ns, meta.get("e_tag"))


def _reason(text: str) -> str:
    """The part of the library's message that says what is wrong."""
    for mark in ("<Message>", "Error after ", "source: "):
        if mark in text:
            text = text.partition(mark)[2].partition("</Message>")[0]
            break
    return text[:300]
