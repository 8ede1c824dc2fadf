"""Lists and certificates that change, an upgrade and a drain, under the restrictions of the service
of deploy/systemd.

Runs in network and mount namespaces of its own: see test_deploy_systemd.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from harness.door import request
from harness.fds import alive
from harness.issued import authority, chain_of, key_of
from harness.proxy import refused
from harness.wait import wait_until
from serve_config import echo
from serve_unit import LOG, SERVICE, prepare, ready

RUN = Path("/run/spliceproxy")
DOOR = RUN / "admin.sock"
WEB = ("127.0.0.1", 8080)


def write(name: str, text: str) -> None:
    """A whole file at once, as whoever writes lists should."""
    fresh = RUN / "fresh"
    fresh.write_text(text)
    fresh.replace(RUN / name)


def served(source: str) -> bool:
    """Whether a client with this address is answered."""
    try:
        with socket.create_connection(WEB, 10, source_address=(source, 0)) as client:
            client.sendall(b"x")
            return client.recv(1) == b"x"
    except ConnectionError:
        return False


def pid() -> int:
    return int(request(DOOR, "GET", "/api/v1/status")[1]["pid"])


def write_certificate(name: str) -> None:
    """The only certificate of the listener `tls`."""
    (RUN / "certs").mkdir(exist_ok=True)
    issued = authority().issue_cert(name)
    (RUN / "fresh").write_bytes(chain_of(issued) + key_of(issued))
    (RUN / "fresh").replace(RUN / "certs/tls.pem")


def certified() -> list[str]:
    """The names of the certificate that the listener `tls` shows."""
    listeners = request(DOOR, "GET", "/api/v1/status")[1]["listeners"]
    [shown] = next(one["certificates"] for one in listeners if one["name"] == "tls")
    names: list[str] = shown["names"]
    return names


def main() -> None:
    prepare()
    upstream = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(upstream,), daemon=True).start()
    write("list.yaml", "[]\n")
    write("block.txt", "127.0.0.9\n")
    write_certificate("one.example.com")
    access = f"[{{deny: 'file:{RUN}/block.txt'}}]"
    (RUN / "app.yaml").write_text(
        f"admin: {{bind: 'unix:{DOOR}'}}\n"
        "listeners:\n"
        f"  web: {{bind: '127.0.0.1:8080', pool: app, access: {access}}}\n"
        f"  tls: {{bind: '127.0.0.1:8443', pool: app, tls: {{certificates: {RUN}/certs}}}}\n"
        f"pools: {{app: {{upstreams: 'file:{RUN}/list.yaml'}}}}\n"
    )
    confined = ["unshare", "--mount", sys.executable, str(Path(__file__).with_name("confined.py"))]
    command = [sys.executable, "-m", "spliceproxy", "run", "--watch", str(RUN / "app.yaml")]
    with LOG.open("wb") as log:
        proxy = subprocess.Popen(
            [*confined, str(SERVICE), *command], stdout=subprocess.DEVNULL, stderr=log
        )
    try:
        wait_until(lambda: ready() or proxy.poll() is not None, 15, "the proxy is ready")
        assert not served("127.0.0.1"), "the pool is empty"
        write("list.yaml", f"[127.0.0.1:{upstream.getsockname()[1]}]\n")
        wait_until(lambda: served("127.0.0.1"), 15, "an upstream is found")
        assert not served("127.0.0.9")
        write("block.txt", "127.0.0.1\n")
        wait_until(lambda: served("127.0.0.9"), 15, "another list of networks")
        assert not served("127.0.0.1")
        assert certified() == ["one.example.com"]
        write_certificate("two.example.com")
        wait_until(lambda: certified() == ["two.example.com"], 15, "another certificate")
        assert request(DOOR, "POST", "/api/v1/upgrade")[0] == 200
        new = pid()
        assert new != proxy.pid
        assert served("127.0.0.9")
        assert certified() == ["two.example.com"]
        for order, wanted in (("drain", True), ("undrain", False)):
            assert request(DOOR, "POST", f"/api/v1/{order}", {"target": "listener/web"})[0] == 200
            wait_until(lambda wanted=wanted: refused(WEB) is wanted, 15, order)  # type: ignore[misc]
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: not alive(new), 15, "its end")
        assert proxy.wait(15) == 0
    except BaseException:
        sys.stderr.write(LOG.read_text())
        raise
    finally:
        proxy.kill()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
