"""The orders: what somebody tells the proxy to do."""

from __future__ import annotations

from dataclasses import asdict

import structlog

from spliceproxy.admin.asking import Answer, Asked, AskError, seconds, tell
from spliceproxy.control.house import House
from spliceproxy.control.log_level import LogLevelError
from spliceproxy.ipc.queries import filter_of

_log = structlog.get_logger()

LONGEST_OVER = 30 * 86400
"""Seconds over which a drain may be spread."""

_TARGET = '{"target": "pool/app"}'


class Orders:
    """Each order takes its JSON object, and tells what came of it.

    Raises AskError for one that makes no sense, TargetError and QueryError for what it names, and
    other kinds of SpliceproxyError where it cannot be done now.
    """

    def __init__(self, house: House) -> None:
        self._house = house

    async def drain(self, asked: Asked) -> Answer:
        """{"target": "pool/app", "over": 60}: no new sessions; those that are there go on, or end
        within so many seconds."""
        return await self._drain(asked, "draining", on=True)

    async def undrain(self, asked: Asked) -> Answer:
        """{"target": "pool/app"}: new sessions again."""
        return await self._drain(asked, "undrained", on=False)

    async def _drain(self, asked: Asked, event: str, *, on: bool) -> Answer:
        order = asked.order("target", *(["over"] if on else []), example=_TARGET)
        if "target" not in order:
            raise AskError(f"the body is no order; send for example {_TARGET}")
        target, over = order["target"], order.get("over")
        if not isinstance(target, str):
            raise AskError(f"target is no text; send for example {_TARGET}")
        if over is not None:
            over = seconds(over, "over", LONGEST_OVER)
        drained = await self._house.draining.order(target, on, over)
        older = await self._house.sessions.older.drain(target, on, over)
        sessions = drained.sessions + older.number
        if drained.changed or over is not None:
            _log.info(
                event,
                target=target,
                changed=drained.changed,
                sessions=sessions,
                over_seconds=over,
            )
        return tell(
            {
                **asdict(drained),
                "sessions": sessions,
                "older_sessions": self._house.older_sessions(),
                "silent_processes": older.silent,
            }
        )

    async def weight(self, asked: Asked) -> Answer:
        """{"target": "pool/app/10.0.0.1:80", "weight": 3}: its share of new sessions; null: the
        configured one."""
        example = '{"target": "pool/app/10.0.0.1:80", "weight": 3}'
        order = asked.order("target", "weight", example=example)
        if order.keys() != {"target", "weight"}:
            raise AskError(f"the body is no order; send for example {example}")
        target, weight = order["target"], order["weight"]
        if not isinstance(target, str):
            raise AskError(f"target is no text; send for example {example}")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int)):
            raise AskError("weight is a whole number, or null for the configured one")
        return tell(asdict(await self._house.weights.set(target, weight)))

    async def log_level(self, asked: Asked) -> Answer:
        """{"level": "debug"}: which lines of the log are written, here and in all workers."""
        level = asked.order("level", example='{"level": "debug"}').get("level")
        if not isinstance(level, str):
            raise AskError('the body is no order; send for example {"level": "debug"}')
        try:
            before = self._house.log_level.set(level)
        except LogLevelError as error:
            raise AskError(str(error)) from None
        return tell({"level": level, "before": before})

    async def reset(self, asked: Asked) -> Answer:
        """{"sessions": ["0-eb810881-1"]} or {"where": {"pool": "app"}}: end them by a reset."""
        example = '{"sessions": ["0-eb810881-1"]} or {"where": {"pool": "app"}}'
        order = asked.order("sessions", "where", example=example)
        ids, where = order.get("sessions", []), order.get("where")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise AskError("sessions is no list of texts")
        if where is not None and not isinstance(where, dict):
            raise AskError('where is no filter; send for example {"where": {"pool": "app"}}')
        filters = None if where is None else filter_of(where)
        reached = await self._house.sessions.reset(ids, filters)
        _log.info("sessions reset", sessions=reached.number, named=len(ids), where=where)
        return tell(
            {
                "reset": reached.number,
                "silent_workers": reached.silent_workers,
                "silent_processes": reached.silent_processes,
            }
        )

    async def reload(self, asked: Asked) -> Answer:
        """{}: the configuration, as it is now in its file."""
        asked.order(example="{}")
        return tell({"changes": await self._house.reload()})

    async def upgrade(self, asked: Asked) -> Answer:
        """{}: a new process in the place of this one."""
        asked.order(example="{}")
        return tell(await self._house.upgrade())
