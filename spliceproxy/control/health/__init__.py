"""Active health checks: the supervisor asks each upstream, again and again, whether it serves.

`state` decides what results mean, `schedule` when to ask, `checks` and its neighbours how, and
`monitor` is the part of the supervisor that joins them and tells the workers.
"""

from __future__ import annotations

from spliceproxy.control.health.monitor import Monitor

__all__ = ["Monitor"]
