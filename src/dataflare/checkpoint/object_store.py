"""Store a lineage's checkpoints in an object store (S3, Azure Blob, Google Cloud Storage), beside a local copy.

    <url>/<workflow>/<lineage8>/manifest-<epoch>.json   chunks/<name>   redo/<step>/...

The local copy is the workflow's folder, as without an object store. It is a cache: whatever is missing there is
fetched, so a machine that has lost it goes on with `--adopt`.

Always true:
- a manifest is put after every chunk and redo file that it refers to;
- a manifest is put only where no other run has put one for the epoch (conditional put), so of two runs that
  believe to be the only one, one ends;
- what is deleted here is deleted there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.checkpoint import files, resolve
from dataflare.checkpoint.manifest import Damaged, Manifest, StateChunk
from dataflare.checkpoint.resolve import ManifestFact
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import CheckpointError, ConfigError, Retry, SystemError_
from dataflare.sdk.crashpoints import crash_point
from dataflare.security.redact import redact

if TYPE_CHECKING:
    import polars as pl

_PART_BYTES = 4 << 20


class Bucket:
    """The objects below a URL such as s3://bucket/prefix. Credentials, region and endpoint come from the
    environment (AWS_ACCESS_KEY_ID, AZURE_STORAGE_ACCOUNT_NAME, GOOGLE_SERVICE_ACCOUNT, ...). All calls block."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError(
                f"checkpoints in {redact(url)} need the library obstore",
                code="E0404",
                help="pip install 'dataflare[s3]'",
            ) from error
        self._obstore: Any = obstore
        with self._errors("open"):
            options: Any = {"allow_http": True}
            self._store: Any = from_url(url, client_options=options)

    def names(self, prefix: str) -> list[str]:
        """The names of the objects below a prefix, relative to the URL."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """By name, relative to the URL, the bytes of each object below a prefix."""
        with self._errors("list"):
            return {
                str(each["path"]): int(each["size"])
                for part in self._obstore.list(self._store, prefix)
                for each in part
            }

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        with self._errors("read"):
            try:
                return bytes(self._obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        with self._errors("write"):
            self._obstore.put(self._store, name, data)

    def parts(self, name: str) -> Iterator[bytes] | None:
        """An object's bytes, a part at a time; None if there is no such object."""
        with self._errors("read"):
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            return self._read(iter(found.stream(min_chunk_size=_PART_BYTES)))

    def _read(self, parts: Iterator[Any]) -> Iterator[bytes]:
        while True:
            with self._errors("read"):
                part = next(parts, None)
            if part is None:
                return
            yield bytes(part)

    def put_file(self, name: str, path: Path) -> None:
        """Put the bytes of a file, a part at a time."""
        with self._errors("write"):
            self._obstore.put(self._store, name, path)

    def put_new(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one of this name. Whether it was put."""
        from obstore.exceptions import AlreadyExistsError

        with self._errors("write"):
            try:
                self._obstore.put(self._store, name, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def put_once(self, name: str, data: bytes) -> None:
        """Put an object under a name that no other object ever has. Raises CheckpointError (E0705) if there is another one.
        A put that the library makes again after an answer was lost finds its own object."""
        if not self.put_new(name, data) and self.get(name) != data:
            raise CheckpointError(
                f"{name} is in {redact(self.url)} already, by another run",
                code="E0705",
                help="another run of this workflow is active: stop one of them",
            )

    def replace(self, name: str, before: bytes, data: bytes) -> bool:
        """Put an object in place of one with these bytes. Whether it was put."""
        from obstore.exceptions import PreconditionError

        with self._errors("write"):
            try:
                found = self._obstore.get(self._store, name)
                if bytes(found.bytes()) != before:
                    return False
                facts = {name: found.meta.get(name) for name in ("e_tag", "version")}
                mode = {name: value for name, value in facts.items() if value is not None}
                self._obstore.put(self._store, name, data, mode=mode)
            except (FileNotFoundError, PreconditionError):
                return False
        return True

    def delete(self, names: Collection[str]) -> None:
        if not names:
            return
        with self._errors("delete"):
            try:
                self._obstore.delete(self._store, list(names))
            except FileNotFoundError:
                # Not S3, which says nothing of one that is gone. The others may not be deleted yet.
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        self._obstore.delete(self._store, name)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = redact(str(error).strip().splitlines()[0][:300])
            raise SystemError_(
                f"cannot {what} checkpoints in {redact(self.url)}: {reason}",
                code="E0607",
                help="check settings.checkpoint.storage, and AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment",
                retry=Retry.LATER,
            ) from error


class ObjectStore(LocalStore):
    """`Storage` in a bucket. folder: the workflow's, where the local copy is."""

    def __init__(self, bucket: Bucket, folder: Path, lineage: str) -> None:
        super().__init__(folder, lineage)
        self._bucket = bucket
        self._prefix = f"{folder.name}/{self.home.name}"
        self._has_fetched = False
        self._put: set[str] = set()

    def publish(self, manifest: Manifest) -> None:
        self._put_chunks(manifest)
        self._put_redo(manifest)
        crash_point("bucket.before_manifest")
        name = f"{self._prefix}/{resolve.manifest_name(manifest.epoch)}"
        data = manifest.to_text().encode("ascii")
        if not self._bucket.put_new(name, data):
            self._replace(name, manifest, data)
        crash_point("bucket.after_manifest")
        super().publish(manifest)

    def _replace(self, name: str, manifest: Manifest, data: bytes) -> None:
        """Put a manifest of an epoch that has one: of the same run, or of an earlier attempt."""
        found = self._bucket.get(name)
        if found == data:
            return
        if found is not None:
            with contextlib.suppress(Damaged, UnicodeDecodeError):
                other = Manifest.from_text(found.decode("ascii"))
                if (other.attempt, other.run_id) != (manifest.attempt, manifest.run_id) and (
                    other.attempt >= manifest.attempt
                ):
                    raise CheckpointError(
                        f"checkpoint {manifest.epoch} is in {redact(self._bucket.url)} already, by run "
                        f"{other.run_id}",
                        code="E0705",
                        help="another run of this workflow is active, or has taken over: stop one of them",
                    )
            if self._bucket.replace(name, found, data):
                return
        raise CheckpointError(
            f"checkpoint {manifest.epoch} was put into {redact(self._bucket.url)} by another run just now",
            code="E0705",
            help="another run of this workflow is active: stop one of them",
        )

    def list_manifests(self, *, thorough: bool = False) -> list[ManifestFact]:
        self.fetch()
        return super().list_manifests(thorough=thorough)

    def write_chunk(
        self, name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None = None
    ) -> StateChunk:
        chunk = super().write_chunk(name, frame, key_groups)
        self._bucket.put_once(f"{self._prefix}/chunks/{name}", (self._chunks / name).read_bytes())
        self._put.add(name)
        return chunk

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        self._fetch_file(f"chunks/{chunk.name}")
        return super().read_chunk(chunk)

    def verify_chunk(self, chunk: StateChunk) -> str | None:
        self._fetch_file(f"chunks/{chunk.name}")
        return super().verify_chunk(chunk)

    def rewind(self, epoch: int) -> None:
        later = [
            name
            for name in self._names_there()
            if (number := resolve.manifest_epoch(name)) is not None and number > epoch
        ]
        self._bucket.delete([f"{self._prefix}/{name}" for name in later])
        super().rewind(epoch)

    def collect(self, retain: int = 3) -> int:
        # In this order, for the reason that `LocalStore.collect` gives. What is here says nothing of what is
        # needed there: chunks that no run has read since a home was lost are only there.
        names = self._names_there()
        unpublished = self._chunks_to_come(names)
        readable = [fact.manifest for fact in map(self._read, self._epochs()) if fact.manifest]
        keep = resolve.retained(readable, retain)
        deletable = resolve.deletable(keep, names, unpublished=unpublished)
        for is_manifest in (True, False):
            these = [name for name in deletable if name.startswith("manifest-") is is_manifest]
            self._bucket.delete([f"{self._prefix}/{name}" for name in these])
        return super().collect(retain)

    def delete(self, epochs: Collection[int]) -> int:
        self.fetch()
        names = [f"{self._prefix}/{resolve.manifest_name(epoch)}" for epoch in epochs]
        self._bucket.delete(names)
        return super().delete(epochs)

    def clear(self) -> None:
        self._bucket.delete(self._bucket.names(f"{self.folder.name}/"))
        super().clear()

    def fetch(self) -> None:
        """Bring manifests, and the redo files that they refer to, that are not here."""
        if self._has_fetched:
            return
        for name in self._names_there():
            if resolve.manifest_epoch(name) is not None or name.startswith("redo/"):
                self._fetch_file(name)
        self._has_fetched = True

    def _names_there(self) -> list[str]:
        prefix = f"{self._prefix}/"
        return [name.removeprefix(prefix) for name in self._bucket.names(prefix)]

    def _fetch_file(self, name: str) -> None:
        path = self.home / name
        if path.exists():
            return
        parts = self._bucket.parts(f"{self._prefix}/{name}")
        if parts is not None:
            with files.writing("a checkpoint", intact=self._intact):
                files.make_folder(path.parent)
                files.write_parts(path, parts)

    def _put_chunks(self, manifest: Manifest) -> None:
        """Those that another store wrote here: a savepoint's, or of a time without a bucket."""
        missing = manifest.chunks.keys() - self._put
        if missing:
            self._put |= {name.removeprefix("chunks/") for name in self._names_there()}
        for name in missing - self._put:
            self._bucket.put(f"{self._prefix}/chunks/{name}", (self._chunks / name).read_bytes())
            self._put.add(name)

    def _put_redo(self, manifest: Manifest) -> None:
        """What destinations have prepared must be there when the manifest is."""
        for name in resolve.redo_names(manifest):
            path = self.home / name
            if path.is_file():
                self._bucket.put_file(f"{self._prefix}/{name}", path)


def fetch_lineages(bucket: Bucket, folder: Path) -> None:
    """Bring the manifests of all lineages of a workflow whose folder is lost."""
    for name in bucket.names(f"{folder.name}/"):
        _, lineage, *rest = name.split("/")
        path = folder / lineage / "/".join(rest)
        if len(rest) == 1 and resolve.manifest_epoch(rest[0]) is not None and not path.exists():
            data = bucket.get(name)
            if data is not None:
                files.make_folder(path.parent)
                files.write_whole(path, data)
