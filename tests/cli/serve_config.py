"""Run one configuration file as it is, with an echo behind each of its upstreams.

Runs in a network namespace of its own, so that every port is free: see test_configs_run.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from harness.proxy import Name, connect, connect_name
from harness.wait import wait_until

from spliceproxy.config import Address, load


def listen(address: Address) -> socket.socket:
    """A listening socket at an upstream's address."""
    name = connect_name(str(address))
    if isinstance(name, tuple):
        return socket.create_server(name)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(name)
    sock.listen()
    return sock


def echo(listening: socket.socket) -> None:
    """Send back what each client sends, until the process ends."""
    while True:
        client, _address = listening.accept()
        with client:
            while data := client.recv(65536):
                client.sendall(data)


def names(address: Address) -> list[Name]:
    """What a client connects to, to reach a listener's address."""
    if address.host or address.is_unix:
        return [connect_name(str(address))]
    return [("127.0.0.1", address.port), ("::1", address.port)]


def ask(name: Name) -> None:
    """One session: send, half-close, and expect the same back."""
    with connect(name) as sock:
        sock.sendall(b"as it is")
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(100), b""))
    assert answer == b"as it is", (name, answer)


def main(path: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    config = load(Path(path), os.environ)
    with ExitStack() as stack:
        for pool in config.pools.values():
            for upstream in pool.upstreams:
                if upstream.address.path:
                    Path(upstream.address.path).unlink(missing_ok=True)
                listening = stack.enter_context(listen(upstream.address))
                threading.Thread(target=echo, args=(listening,), daemon=True).start()
        log = stack.enter_context(tempfile.NamedTemporaryFile("rb"))
        command = [sys.executable, "-m", "spliceproxy", "run", path]
        proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.fileno())
        stack.callback(proxy.kill)
        wait_until(lambda: b'"ready"' in Path(log.name).read_bytes(), 15, "the proxy is ready")
        for listener in config.listeners.values():
            for address in listener.bind:
                for name in names(address):
                    ask(name)
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(15) == 0


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)
