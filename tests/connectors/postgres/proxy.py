"""A TCP proxy in front of a server, that answers slowly, hangs, or closes connections in the middle."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """port: where it listens. delay_s: before each piece that the server sends. closes: how many
    connections it still breaks, each after `close_after` bytes from the client. going: cleared to
    hang. commit_fate: of the next COMMIT: 'lost': both ends of the connection break before it;
    'unanswered': it is done, but the client gets no answer; 'half open': it is lost, and the server
    does not notice that the client has gone. commits_failed: how many met one."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay_s = 0.0
        self.closes, self.close_after, self.closed = 0, 0, 0
        self.commit_fate: str | None = None
        self.commits_failed = 0
        self._kept: list[socket.socket] = []
        self.going = threading.Event()
        self.going.set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.going.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for parts in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=parts, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.going.wait()
                if not from_client and self.delay_s:
                    time.sleep(self.delay_s)
                passed += len(data)
                if from_client and passed > self.close_after and self._may_close():
                    break
                if from_client and b"commit\0" in data and self.commit_fate is not None:
                    fate, self.commit_fate = self.commit_fate, None
                    self._fail_commit(fate, source, target, data)
                    return
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _fail_commit(
        self, fate: str, client: socket.socket, server: socket.socket, data: bytes
    ) -> None:
        self.commits_failed += 1
        client.shutdown(socket.SHUT_RDWR)
        if fate == "unanswered":
            server.sendall(data)
        if fate == "half open":
            self._kept.append(server)
        else:
            server.shutdown(socket.SHUT_WR)

    def _may_close(self) -> bool:
        with self._lock:
            if self.closed >= self.closes:
                return False
            self.closed += 1
            return True
