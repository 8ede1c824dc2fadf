"""A small HTTP server that answers with its name.

`python -m spliceproxy.cli.demo.upstream NAME FD`: FD is its listening socket. It serves until
standard input ends, which is also what happens when the demo dies; then it answers those who are
connected already, and exits 0.
"""

from __future__ import annotations

import asyncio
import socket
import sys

REQUEST_TIMEOUT = 10.0
"""Seconds that a client may take to send its request."""


class Upstream:
    """The clients of one upstream."""

    def __init__(self, name: str, listening: socket.socket) -> None:
        listening.setblocking(False)
        body = f"hello from {name}\n"
        self._answer = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        ).encode()
        self._listening = listening
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until standard input ends."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        loop.add_reader(self._listening, self._accept_all)
        await ended.wait()
        loop.remove_reader(self._listening)
        # Closing a listening socket resets the clients in its queue: empty it first.
        self._accept_all()
        self._listening.close()
        await asyncio.gather(*self._clients)

    def _accept_all(self) -> None:
        while True:
            try:
                client, _address = self._listening.accept()
            except BlockingIOError:
                return
            task = asyncio.create_task(self._serve_client(client))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve_client(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer)
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # gone, silent (TimeoutError is an OSError), or no HTTP: nobody to answer
        finally:
            writer.close()


def main() -> None:
    name, fd = sys.argv[1], int(sys.argv[2])
    asyncio.run(Upstream(name, socket.socket(fileno=fd)).serve())


if __name__ == "__main__":
    main()
