"""The last ten minutes, a sample every five seconds."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from spliceproxy.admin.figures import Figures, Scope, Tally

INTERVAL: Final = 5.0
"""Seconds from one sample to the next."""
SAMPLES: Final = 120

TRACKS: Final = ("sessions", *Tally._fields)
UPSTREAM_TRACKS: Final = ("sessions", "bytes_up", "bytes_down")
MOST: Final = 1000
"""Pools, and upstreams, that have a history. It bounds the memory: 7 KB for a pool or a listener,
4 KB for an upstream."""


class History:
    """Series of numbers by scope."""

    def __init__(self, interval: float = INTERVAL) -> None:
        """`interval`: seconds from one sample to the next."""
        self._interval = interval
        self._times = array("d")
        self._series: dict[Scope, dict[str, array[float]]] = {}

    def add(self, time: float, rows: Mapping[Scope, Sequence[float]]) -> None:
        """Take the sample of `time` (seconds since the epoch): for each scope the values of TRACKS.

        A scope that is missing is forgotten: its name may be somebody else's one day.
        """
        _push(self._times, time)
        for scope in self._series.keys() - rows.keys():
            del self._series[scope]
        for scope, row in rows.items():
            series = self._series.get(scope)
            if series is None:
                tracks = UPSTREAM_TRACKS if scope[:1] == ("upstream",) else TRACKS
                series = self._series[scope] = {track: array("d") for track in tracks}
            for track, values in series.items():
                _push(values, row[_COLUMNS[track]])

    def answer(self) -> Figures:
        """All of it, as docs/api.md has it."""
        found: Figures = {
            "interval_seconds": self._interval,
            "times": self._times.tolist(),
            "total": {},
            "listeners": {},
            "pools": {},
            "upstreams": {},
        }
        for scope, series in self._series.items():
            told = {track: self._filled(values) for track, values in series.items()}
            match scope:
                case ("listener", name):
                    found["listeners"][name] = told
                case ("pool", name):
                    found["pools"][name] = told
                case ("upstream", pool, name):
                    found["upstreams"].setdefault(pool, {})[name] = told
                case _:
                    found["total"] = told
        return found

    def _filled(self, values: array[float]) -> list[float | None]:
        """A series with null for the time before it began."""
        return [None] * (len(self._times) - len(values)) + values.tolist()


_COLUMNS: Final = {track: number for number, track in enumerate(TRACKS)}


def _push(values: array[float], value: float) -> None:
    values.append(value)
    if len(values) > SAMPLES:
        del values[0]
