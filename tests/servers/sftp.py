"""A server of SFTP (asyncssh) whose root is a folder, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct
from optional_packages import package


class SftpServer(Struct):
    """storage: the options with which a workflow reaches it."""

    root: Path
    port: int
    storage: dict[str, str]

    @property
    def url(self) -> str:
        return f"sftp://127.0.0.1:{self.port}"

    def known_at(self, port: int) -> dict[str, str]:
        """The options for a proxy at another port."""
        hosts = Path(self.storage["known_hosts"])
        other = hosts.with_name(f"known_hosts_{port}")
        other.write_text(hosts.read_text().replace(f":{self.port}", f":{port}"))
        return {**self.storage, "known_hosts": str(other)}


@contextlib.contextmanager
def sftp_server(folder: Path) -> Iterator[SftpServer]:
    asyncssh = package("asyncssh")
    root = folder / "root"
    root.mkdir()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("me", "right")

    key = asyncssh.generate_private_key("ssh-ed25519")

    async def serve() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[key],
            server_factory=Login,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(root)),
        )

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(20)
    port = server.sockets[0].getsockname()[1]
    hosts = folder / "known_hosts"
    hosts.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    storage = {"user": "me", "password": "right", "known_hosts": str(hosts)}
    yield SftpServer(root, port, storage)
    loop.call_soon_threadsafe(server.close)
