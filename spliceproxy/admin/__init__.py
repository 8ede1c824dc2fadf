"""The admin API, the dashboard and /metrics, over HTTP: docs/api.md says what each path tells.

- `part` is a part of the supervisor; it gets a `House` (control/house.py) and the `Doors`.
- `front` is HTTP at the doors: each connection has a `gate` (how much, how long, how many), each
  request passes the `guard` (who may, pure), with `tokens` from files.
- `api` says which paths there are. They know nothing of HTTP, but what is `asking`.
- `reading` tells: `status`, `ready` (for probes), `stream`; `orders` does; `pages` has the files of
  the dashboard, which are in `page/`.
"""

from __future__ import annotations

from spliceproxy.admin.part import Admin
from spliceproxy.admin.tokens import TokenError, TokenFiles

__all__ = ["Admin", "TokenError", "TokenFiles"]
