"""What real clients say first, recorded: run this to make tests/wire/data again.

    python tests/wire/make_data.py            all whose program is on this machine
    python tests/wire/make_data.py curl       those whose name begins with curl

A client that is not there is named, and its file stays as it is. The names that begin with chrome,
firefox and safari are made by BoringSSL as those browsers set it up (PyPI: curl_cffi; run this with
a Python that has it); chromium is the browser itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

DATA = Path(__file__).with_name("data")
NAME = "www.example.com"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def one_record(seen: bytes) -> bool:
    return len(seen) > 4 and len(seen) >= 5 + int.from_bytes(seen[3:5], "big")


def headers(seen: bytes) -> bool:
    return b"\r\n\r\n" in seen


def one_line(seen: bytes) -> bool:
    return seen.endswith(b"\n")


def one_packet(seen: bytes) -> bool:
    return len(seen) > 3 and len(seen) >= int.from_bytes(seen[:4], "big")


@dataclass(frozen=True)
class Client:
    """How to let a program speak: `{port}` and `{name}` are filled in."""

    command: tuple[str, ...]
    enough: Callable[[bytes], bool] = one_record


def openssl(*words: str) -> Client:
    command = ("openssl", "s_client", "-connect", "127.0.0.1:{port}")
    return Client(
        command + (words if "-noservername" in words else ("-servername", "{name}", *words))
    )


def curl(url: str, *words: str, enough: Callable[[bytes], bool] = one_record) -> Client:
    where = (url,) if "-x" in words else ("--connect-to", "::127.0.0.1:{port}", url)
    return Client(("curl", "-s", "-m", "20", "--noproxy", "", *words, *where), enough)


def browser(kind: str) -> Client:
    code = (
        "from curl_cffi import CurlOpt, requests\n"
        "requests.get('https://{name}:{port}/', impersonate='" + kind + "', timeout=20,"
        " curl_options={{CurlOpt.RESOLVE: ['{name}:{port}:127.0.0.1']}})"
    )
    return Client((sys.executable, "-c", code))


PYTHON = """
import socket, ssl
context = ssl.create_default_context()
context.set_alpn_protocols(["http/1.1"])
sock = socket.create_connection(("127.0.0.1", {port}))
context.wrap_socket(sock, server_hostname="{name}")
"""
NODE = "require('tls').connect({{host: '127.0.0.1', port: {port}, servername: '{name}'}})"
CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    "--host-resolver-rules=MAP {name} 127.0.0.1",
    "https://{name}:{port}/",
)
PSQL = ("psql", "-w", "host=127.0.0.1 port={port} user=u dbname=d gssencmode=disable sslmode=")

CLIENTS = {
    "openssl-tls1.0": openssl("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"),
    "openssl-tls1.1": openssl("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"),
    "openssl-tls1.2": openssl("-tls1_2", "-alpn", "h2,http/1.1"),
    "openssl-tls1.3": openssl("-tls1_3", "-alpn", "h2"),
    "openssl-tls1.3-psk": openssl("-tls1_3", "-psk", "00112233445566778899aabbccddeeff"),
    "openssl-post-quantum": openssl("-groups", "X25519MLKEM768:X25519"),
    "openssl-no-name": openssl("-noservername"),
    "openssl-address": openssl("-servername", "192.0.2.1"),
    "curl": curl("https://{name}/"),
    "curl-http1-tls1.2": curl("https://{name}/", "--http1.1", "--tls-max", "1.2"),
    "python": Client((sys.executable, "-c", PYTHON)),
    "node": Client(("node", "-e", NODE)),
    "chrome": browser("chrome"),
    "firefox": browser("firefox"),
    "safari": browser("safari"),
    "chromium": Client(CHROMIUM),
    "plain-curl": curl("http://{name}/", enough=headers),
    "plain-curl-http2": curl("http://{name}/", "--http2-prior-knowledge", enough=headers),
    "plain-curl-proxy": curl("http://{name}/", "-x", "127.0.0.1:{port}", enough=headers),
    "plain-curl-connect": curl("https://{name}/", "-x", "127.0.0.1:{port}", enough=headers),
    "plain-ssh": Client(
        ("ssh", "-F", "none", "-o", "BatchMode=yes", "-p", "{port}", "127.0.0.1"), one_line
    ),
    "plain-psql-ssl": Client((*PSQL[:-1], PSQL[-1] + "require"), one_packet),
    "plain-psql": Client((*PSQL[:-1], PSQL[-1] + "disable"), one_packet),
    "plain-redis": Client(("redis-cli", "-h", "127.0.0.1", "-p", "{port}", "PING"), one_line),
}


def record(client: Client) -> bytes | None:
    """What the client sends before anyone answers; None where there is no such program."""
    program = shutil.which(client.command[0], path=PATH) or shutil.which(client.command[0])
    if program is None:
        return None
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        TemporaryDirectory(ignore_cleanup_errors=True) as home,  # nobody's settings, no leavings
    ):
        listener.settimeout(0.1)
        words = [word.format(port=listener.getsockname()[1], name=NAME) for word in client.command]
        process = subprocess.Popen(
            [program, *words[1:]],
            env=os.environ | {"HOME": home},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:  # a program that refuses its arguments never comes
                with suppress(TimeoutError):
                    return _first_words(listener.accept()[0], client)
            return None
        finally:
            process.kill()
            process.communicate()


def _first_words(sock: socket.socket, client: Client) -> bytes | None:
    with sock:
        sock.settimeout(30)
        seen = b""
        while not client.enough(seen):
            more = sock.recv(65536)
            if not more:
                return None
            seen += more
    return seen


def main(prefix: str) -> None:
    DATA.mkdir(exist_ok=True)
    for name, client in CLIENTS.items():
        if name.startswith(prefix):
            seen = record(client)
            if seen is not None:
                DATA.joinpath(f"{name}.bin").write_bytes(seen)
            print(f"{name}: {'could not be asked' if seen is None else f'{len(seen)} bytes'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
