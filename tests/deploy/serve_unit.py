"""Run deploy/systemd's configuration as it is, under the restrictions of its service.

Runs in network and mount namespaces of its own: see test_deploy_systemd.py. Prints what was seen.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.fds import children
from harness.proxy import Name, connect
from harness.wait import wait_until
from serve_config import echo, listen, names
from units import SYSTEMD

from spliceproxy.config import Config, load

SERVICE = SYSTEMD / "spliceproxy.service"
CONFIG = SYSTEMD / "spliceproxy.yaml"
BULK = 8 * 1024 * 1024
LOG, RECORDS = Path("/run/log"), Path("/run/records")


def prepare() -> None:
    """An empty /run and /var/log with the service's directories, and a loopback interface."""
    for directory, name in (("/run", "spliceproxy"), ("/var/log", "spliceproxy")):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
        Path(directory, name).mkdir()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def send_and_receive(name: Name) -> None:
    """One session with bulk in both directions."""
    data = os.urandom(BULK)
    with connect(name) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        answer = bytearray()
        while len(answer) < BULK and (more := sock.recv(1 << 20)):
            answer += more
        sender.join()
    assert answer == data, name


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ready() -> bool:
    return b'"event":"ready"' in LOG.read_bytes()


def status(pid: int, key: str) -> str:
    """A field of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{key}:"))


def serve(config: Config, proxy: subprocess.Popen[bytes]) -> None:
    """Sessions on every address of every listener, before and after a worker's death."""
    wait_until(lambda: ready() or proxy.poll() is not None, 15, "the proxy is ready")
    assert proxy.poll() is None, (proxy.poll(), LOG.read_text())
    workers = children(proxy.pid)
    for pid in (proxy.pid, *workers):
        assert status(pid, "Seccomp") == "2"
        assert status(pid, "NoNewPrivs") == "1"
        assert int(status(pid, "CapEff"), 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    addresses = [address for one in config.listeners.values() for address in one.bind]
    for address in addresses:
        for name in names(address):
            send_and_receive(name)
    wait_until(lambda: RECORDS.read_bytes().count(b"\n") == 3, 15, "the records")
    os.kill(workers[0], signal.SIGKILL)
    wait_until(lambda: not {workers[0]} & {*children(proxy.pid)}, 15, "the worker's end")
    wait_until(lambda: len(children(proxy.pid)) == len(workers), 15, "a new worker")
    send_and_receive(names(addresses[0])[0])
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait(15) == 0, LOG.read_text()


def main() -> None:
    prepare()
    environment = {**os.environ, "SESSION_RECORDS": "all"}
    config = load(CONFIG, environment)
    confined = ["unshare", "--mount", sys.executable, str(Path(__file__).with_name("confined.py"))]
    command = [sys.executable, "-m", "spliceproxy", "run", str(CONFIG)]
    with ExitStack() as stack:
        for upstream in config.pools["app"].upstreams:
            listening = stack.enter_context(listen(upstream.address))
            threading.Thread(target=echo, args=(listening,), daemon=True).start()
        proxy = subprocess.Popen(
            [*confined, str(SERVICE), *command],
            stdout=stack.enter_context(RECORDS.open("wb")),
            stderr=stack.enter_context(LOG.open("wb")),
            env=environment,
        )
        stack.callback(proxy.kill)
        serve(config, proxy)
    seen = {
        "records": lines(RECORDS),
        "warnings": [line for line in lines(LOG) if line["level"] in ("warning", "error")],
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
