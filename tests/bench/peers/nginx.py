"""nginx with its stream module."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.peers.base import Peer
from bench.programs import MissingError, find

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Nginx(Peer):
    """A master and its workers."""

    name = "nginx"

    def version(self) -> str:
        if not MODULE.exists():
            raise MissingError(f"{MODULE} is not there (Debian: libnginx-mod-stream)")
        done = subprocess.run([find("nginx"), "-v"], capture_output=True, text=True)
        return done.stderr.strip().removeprefix("nginx version: ").replace("/", " stream ")

    def template(self, tuning: str) -> str:
        return f"nginx-{tuning}.conf"

    def values(self) -> dict[str, str]:
        return {"MODULE": str(MODULE)}

    def command(self, config: Path, workers: int) -> list[str]:
        del workers
        return [find("nginx"), "-c", str(config)]
