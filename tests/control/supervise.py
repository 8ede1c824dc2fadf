"""Runs the supervisor with fake workers: `supervise.py CONFIG [option of the fake worker]...`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from spliceproxy import config, control
from spliceproxy.admin import Admin
from spliceproxy.control.fleet import Patience
from spliceproxy.errors import SpliceproxyError

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")

if os.environ.pop("TEST_LEAVE_ORPHANS", ""):
    # Two generations of children whose parent is gone: the second becomes a child of PID 1.
    for _ in range(3):
        subprocess.run(["sh", "-c", "sleep 0.05 & exit 0"], check=True)
if os.environ.pop("TEST_SILENT_DNS", ""):

    def wait_for_ever(*_arguments: object, **_options: object) -> NoReturn:
        print("looking up", file=sys.stderr, flush=True)
        threading.Event().wait()
        raise AssertionError

    socket.getaddrinfo = wait_for_ever
if os.environ.get("LISTEN_PID") == "self":
    os.environ["LISTEN_PID"] = str(os.getpid())
try:
    loaded = config.load(Path(sys.argv[1]))
    command = [sys.executable, str(FAKE_WORKER), *sys.argv[2:]]
    patience = Patience(heartbeat=float(os.environ.pop("TEST_HEARTBEAT", "5")))
    sys.exit(control.run(loaded, command, patience, admin=Admin))
except SpliceproxyError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
