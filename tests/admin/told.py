"""A proxy whose admin API is asked by its UNIX socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.door import request
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo, refuse
from harness.wait import wait_until

YAML = """\
admin: {{bind: "unix:{door}"}}
health: {{interval: 100ms, fall: 1, rise: 1}}
listeners:
  web:
    bind: "127.0.0.1:0"
    routes:
      - {{source: 192.0.2.0/24, pool: {{app: 3, spare: 1}}}}
      - {{sni: [a.example.com, b.example.com], alpn: h2, pool: spare}}
    pool: app
    max_sessions: 50
  other: {{bind: "127.0.0.1:0", pool: spare}}
pools:
  app:
    required: true
    upstreams: [{{address: "{up}", weight: 2, max_sessions: 9}}]
    max_sessions: 100
    health: {{check: exchange, send: "AUTH secret\\r\\n", expect: AUTH}}
  spare:
    upstreams: ["{down}", {{address: "{up}", tier: 1}}]
    health: {{check: http, path: "/healthz?key=secret", interval: 1h}}
"""


@dataclass
class Told:
    """A proxy, and what it tells."""

    proxy: Proxy
    door: Path
    up: str
    down: str

    def get(self, target: str) -> dict[str, Any]:
        code, answer = request(self.door, "GET", target)
        assert code == 200, answer
        return answer

    def order(self, name: str, **body: Any) -> dict[str, Any]:
        code, answer = request(self.door, "POST", f"/api/v1/{name}", body)
        assert code == 200, answer
        return answer

    def refused(self, target: str, body: object = None) -> tuple[int, str]:
        method = "GET" if body is None else "POST"
        code, answer = request(self.door, method, f"/api/v1/{target}", body)
        assert code >= 400
        return code, answer["error"]


@contextmanager
def telling(directory: Path) -> Iterator[Told]:
    """A required pool that is well, and one whose upstreams are down."""
    door = directory / "admin.sock"
    with echo() as up, refuse() as down:
        text = YAML.format(door=door, up=up.address, down=down.address)
        with running_proxy(text, workers=2) as proxy:
            found = Told(proxy, door, up.address, down.address)
            wait_until(lambda: found.get("/api/v1/status")["ready"], 10, "ready")
            yield found
