"""Certificates of our own that end soon: the log says so, each once a day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import structlog

from spliceproxy.control.tls.pem import Certificate, Chain, shorten

_log = structlog.get_logger()

_SOON = timedelta(days=14)
"""Left of a certificate that should have been renewed long ago; of one with a short life, a third
of that."""
_LOOK = 3600.0
"""Seconds between two looks."""
_AGAIN = timedelta(hours=24)
"""Between two words about one certificate."""


def state(chain: Chain, now: datetime) -> str:
    """`valid`, `soon` (it ends), `expired` or `not_yet` (valid)."""
    if now < chain.not_before:
        return "not_yet"
    if now >= chain.not_after:
        return "expired"
    if chain.not_after - now < min(_SOON, (chain.not_after - chain.not_before) / 3):
        return "soon"
    return "valid"


def trouble(chain: Chain, now: datetime) -> str:
    """What is wrong with the time of a certificate; empty: nothing."""
    return {
        "valid": "",
        "soon": f"expires soon, on {chain.not_after:%Y-%m-%d %H:%M} UTC",
        "expired": f"expired on {chain.not_after:%Y-%m-%d %H:%M} UTC",
        "not_yet": f"is not valid before {chain.not_before:%Y-%m-%d %H:%M} UTC",
    }[state(chain, now)]


def _now() -> datetime:
    return datetime.now(UTC)


class Expiry:
    """Looks at certificates from time to time."""

    def __init__(
        self,
        certificates: Callable[[], Iterable[tuple[str, Certificate]]],
        now: Callable[[], datetime] = _now,
    ) -> None:
        """`certificates` are those in use, with their files."""
        self._certificates = certificates
        self._now = now
        self._told: dict[tuple[str, datetime], datetime] = {}
        """When the log last heard of a file with a certificate that ends then."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look again and again."""
        if self._timer is None:
            self._look_later()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def tell(self) -> None:
        """Warn of what ends soon, where that was not said within a day."""
        now = self._now()
        self._told = {key: when for key, when in self._told.items() if now - when < _AGAIN}
        for file, certificate in self._certificates():
            chain = certificate.chain
            key = file, chain.not_after
            wrong = trouble(chain, now)
            if wrong and key not in self._told:
                self._told[key] = now
                names = shorten(chain.names)
                _log.warning(f"a certificate {wrong}", file=file, names=names)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self.tell()
        self._look_later()
