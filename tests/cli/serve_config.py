"""Run one configuration file as it is, with an echo behind each of its upstreams.

Runs in a network namespace of its own, so that every port is free: see test_configs_run.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import trustme
from harness.proxy import Name, connect, connect_name
from harness.wait import wait_until

from spliceproxy.config import Address, Config, load


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


def make_certificates(config: Config) -> None:
    """The certificates that the file asks its reader to make."""
    for listener in config.listeners.values():
        for files in listener.tls.certificates if listener.tls else ():
            issued = trustme.CA().issue_cert("www.example.com")
            issued.cert_chain_pems[0].write_to_path(files.chain)
            issued.private_key_pem.write_to_path(str(files.key))


def ask_by_tls(name: Name) -> None:
    """One session: send, expect the same back, and end it in good order."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connect(name), server_hostname="www.example.com") as sock:
        sock.sendall(b"as it is")
        assert sock.recv(100) == b"as it is", name
        sock.unwrap().close()


def ask(name: Name) -> None:
    """One session: send, half-close, and expect the same back."""
    with connect(name) as sock:
        sock.sendall(b"as it is")
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(100), b""))
    assert answer == b"as it is", (name, answer)


def main(original: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), Path(original).name)
        shutil.copy(original, path)
        config = load(path, os.environ)
        make_certificates(config)
        for pool in config.pools.values():
            for upstream in pool.upstreams:
                if upstream.address.path:
                    Path(upstream.address.path).unlink(missing_ok=True)
                listening = stack.enter_context(listen(upstream.address))
                threading.Thread(target=echo, args=(listening,), daemon=True).start()
        log = stack.enter_context(tempfile.NamedTemporaryFile("rb"))
        command = [sys.executable, "-m", "spliceproxy", "run", str(path)]
        proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.fileno())
        stack.callback(proxy.kill)
        wait_until(lambda: b'"ready"' in Path(log.name).read_bytes(), 15, "the proxy is ready")
        for listener in config.listeners.values():
            for address in listener.bind:
                for name in names(address):
                    (ask_by_tls if listener.tls else ask)(name)
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(15) == 0


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)
