"""`python -m bench.load.digest HTTP_HOST HTTP_PORT ECHO_HOST ECHO_PORT`: hashes what arrives.

Fetches every body, and sends 16 MiB through the echo; prints the SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import sys
import threading

from harness.load import pump, read_exactly

from bench.origins import BODIES

ECHO_BYTES = 16 * 1024 * 1024
ECHO_SEED = 20


def body_digests(connection: http.client.HTTPConnection) -> dict[str, str]:
    """Each body twice on one connection, which is closed; both answers are in the digest."""
    digests = {}
    for size in BODIES:
        sha = hashlib.sha256()
        for _ in range(2):
            connection.request("GET", f"/{size}")
            sha.update(connection.getresponse().read())
        digests[str(size)] = sha.hexdigest()
    connection.close()
    return digests


def echo_digest(host: str, port: int) -> str:
    """What the echo answered to the stream of harness.load.

    No FIN is sent before the end, since not every peer lets the answer follow it.
    """
    with socket.create_connection((host, port), 20) as sock:

        def send() -> None:
            pump(sock, ECHO_BYTES, ECHO_SEED)

        sender = threading.Thread(target=send)
        sender.start()
        data = read_exactly(sock, ECHO_BYTES)
        sender.join()
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    _http_host, _http_port, _echo_host, _echo_port = sys.argv[1:]
    found = body_digests(http.client.HTTPConnection(_http_host, int(_http_port), timeout=20))
    found["echo"] = echo_digest(_echo_host, int(_echo_port))
    print(json.dumps(found))
