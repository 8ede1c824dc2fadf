"""`python -m bench.check.launch run FILE`: spliceproxy, with its worker under callgrind.

The worker is then some fifty times slower, so the supervisor is made as much more patient.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.programs import find
from spliceproxy.config import load
from spliceproxy.control.fleet import Patience
from spliceproxy.control.start import run
from spliceproxy.control.supervisor import WORKER_COMMAND

CALLGRIND = ("--tool=callgrind", "--callgrind-out-file=callgrind.out", "--instr-atstart=no", "-q")

if __name__ == "__main__":
    command = (find("valgrind"), *CALLGRIND, *WORKER_COMMAND)
    sys.exit(run(load(Path(sys.argv[2])), command, Patience(heartbeat=60, ready=120)))
