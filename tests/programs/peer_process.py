"""Upstreams in a process of their own: `python peer_process.py ROLE FAMILY`.

Each prints its address as the configuration has it, and runs until it is killed.

- echo: sends back what comes, and FIN after FIN.
- answer: reads one line with a number, sends so many bytes, then FIN.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from functools import partial


def listening(family: str) -> tuple[socket.socket, str]:
    """A listening socket, and its address in the configuration's words."""
    if family == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        name = f"{tempfile.mkdtemp(prefix='upstream-')}/socket"
        sock.bind(name)
        text = f"unix:{name}"
    else:
        number, host = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "[::1]")}[
            family
        ]
        sock = socket.socket(number, socket.SOCK_STREAM)
        sock.bind((host.strip("[]"), 0))
        text = f"{host}:{sock.getsockname()[1]}"
    sock.listen(4096)
    return sock, text


class Echo(asyncio.Protocol):
    """A protocol without streams: thousands of connections cost little."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


ANSWER = bytes(range(256)) * 4096


async def answer(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError, ValueError):
        size = int(await reader.readline())
        writer.write(ANSWER[:size])
        await writer.drain()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def main(role: str, family: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sock, text = listening(family)
    loop = asyncio.get_running_loop()
    if role == "echo":
        server = await loop.create_server(Echo, sock=sock, backlog=4096)
    else:
        server = await asyncio.start_server(partial(answer), sock=sock, backlog=4096)
    print(text, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
