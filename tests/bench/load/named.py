"""`python -m bench.load.named HOST PORT`: which origin answers to each name, and what comes back.

A name that nobody has leads to the echo, through which a ClientHello and 16 MiB are sent. Prints
the ports of the origins, and the SHA-256 of what came back behind the ClientHello.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading

from harness.load import pump, read_exactly, read_to_end

from bench.load.digest import ECHO_BYTES, ECHO_SEED
from bench.load.tls import client_hello
from bench.origins import NAMES


def answer(host: str, port: int, name: str) -> int:
    """The port that an origin says it has."""
    with socket.create_connection((host, port), 20) as sock:
        sock.sendall(client_hello(name))
        return int(read_to_end(sock).split()[-1])


def hello_echo_digest(host: str, port: int) -> str:
    """What the echo answered behind the ClientHello, which has to be as it was sent."""
    hello = client_hello("nobody.bench.example")
    with socket.create_connection((host, port), 20) as sock:
        sock.sendall(hello)
        sender = threading.Thread(target=pump, args=(sock, ECHO_BYTES, ECHO_SEED))
        sender.start()
        data = read_exactly(sock, len(hello) + ECHO_BYTES)
        sender.join()
    if data[: len(hello)] != hello:
        sys.exit("the ClientHello came back as another one")
    return hashlib.sha256(data[len(hello) :]).hexdigest()


if __name__ == "__main__":
    _host, _port = sys.argv[1], int(sys.argv[2])
    _found: dict[str, object] = {name: answer(_host, _port, name) for name in NAMES}
    _found["echo"] = hello_echo_digest(_host, _port)
    print(json.dumps(_found))
