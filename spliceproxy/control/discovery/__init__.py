"""Upstreams that have to be found: host names, SRV records, and files that list them.

- `resolver` asks once: the hosts file, or DNS by dnspython, as resolv.conf says.
- `lookup` asks again in time, and says what an answer or its absence means: one task for each name.
- `lists` reads a file of upstreams; `watch` says when it is another one.
- `discovery` puts together what all of that comes to for each address of the configuration.
- `changes` tells the log which upstreams came and went.
"""

from __future__ import annotations

from spliceproxy.control.discovery.discovery import Discovery
from spliceproxy.control.discovery.found import FoundAt

__all__ = ["Discovery", "FoundAt"]
