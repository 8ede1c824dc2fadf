"""An HTTP server whose process is killed again and again: `python dying_server.py PORT SECONDS`.

The parent holds the listening socket, as the master of nginx does, so every connect succeeds. Its
child answers each request after a few milliseconds, in one piece and then a FIN, and is killed
every SECONDS: what it had accepted by then gets a FIN or a reset, and no byte.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
THOUGHT = 0.005
"""Seconds that an answer takes."""


async def answer(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(THOUGHT)
        writer.write(ANSWER)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def serve(listening: socket.socket) -> None:
    server = await asyncio.start_server(answer, sock=listening, backlog=4096)
    await server.serve_forever()


def main(port: int, lifetime: float) -> None:
    listening = socket.create_server(("127.0.0.1", port), backlog=4096)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            asyncio.run(serve(listening))
        try:
            time.sleep(lifetime)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
