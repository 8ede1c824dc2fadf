"""Which certificate is for whom: from what was read to what workers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import floor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spliceproxy.control.tls.expiry import state
from spliceproxy.control.tls.files import Known, Named
from spliceproxy.control.tls.pem import Certificate
from spliceproxy.ipc import CertificatePlan, PoolTlsPlan, TlsPlan

if TYPE_CHECKING:
    from spliceproxy.config import Config, Listener, ListenerTls, Pool

_HUNDREDTH = timedelta(days=1) / 100
Report = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True, slots=True)
class TlsPlans:
    """What workers are told of TLS, by the names of listeners and pools that speak it."""

    listeners: Mapping[str, TlsPlan] = field(default_factory=dict)
    pools: Mapping[str, PoolTlsPlan] = field(default_factory=dict)


NO_TLS = TlsPlans(MappingProxyType({}), MappingProxyType({}))
"""Nobody speaks TLS."""


def plan_tls(config: Config, known: Known) -> TlsPlans:
    """The plans of `config`, whose files are `known`."""
    return TlsPlans(
        {
            name: _listener(listener, listener.tls, known)
            for name, listener in config.listeners.items()
            if listener.tls is not None
        },
        {
            name: plan
            for name, pool in config.pools.items()
            if (plan := _pool(pool, known)) is not None
        },
    )


def _listener(listener: Listener, tls: ListenerTls, known: Known) -> TlsPlan:
    return TlsPlan(
        certificates=choose(certificates_of(tls, known)).plans,
        min_version=tls.min_version,
        alpn=tls.alpn,
        client_ca=known.authorities.get(tls.client_ca, "") if tls.client_ca else "",
        client_certificate=tls.client_certificate if tls.client_ca else "off",
        timeout=listener.timeouts.handshake,
    )


def _pool(pool: Pool, known: Known) -> PoolTlsPlan | None:
    tls = pool.tls
    if tls is None:
        return None
    shown = known.entries.get(tls.certificate, {}) if tls.certificate else {}
    return PoolTlsPlan(
        verify=tls.verify,
        ca=known.authorities.get(tls.ca, "") if tls.ca else "",
        name=tls.name or "",
        certificate=next((one.pem for one in shown.values()), ""),
    )


def certificates_of(tls: ListenerTls, known: Known) -> Named:
    """The certificates of a listener in their order, by their files."""
    found: dict[str, Certificate] = {}
    for files in tls.certificates:
        for file, certificate in known.entries.get(files, {}).items():
            found.setdefault(file, certificate)
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Which names get which certificates."""

    plans: tuple[CertificatePlan, ...]
    unused: Mapping[str, tuple[str, ...]]
    """Files of certificates that are not shown for these names, since one before them is; without
    names: nobody could ask for them."""


def choose(certificates: Named) -> Choice:
    """For each name the first certificate of each kind of key; the first one of all is for those
    who ask for no known name."""
    of: dict[str, dict[str, str]] = {}
    unused: dict[str, list[str]] = {}
    default: list[CertificatePlan] = []
    for number, (file, certificate) in enumerate(certificates.items()):
        chain, pem = certificate.chain, certificate.pem
        for name in chain.names:
            if of.setdefault(name, {}).setdefault(chain.kind, pem) != pem:
                unused.setdefault(file, []).append(name)
        if not chain.names and number == 0:
            default.append(CertificatePlan((), (pem,)))
        elif not chain.names:
            unused[file] = []
    names: dict[tuple[str, ...], list[str]] = {}
    for name, kinds in of.items():
        names.setdefault(tuple(kinds.values()), []).append(name)
    named = [CertificatePlan(tuple(asked), chains) for chains, asked in names.items()]
    return Choice((*default, *named), {file: tuple(names) for file, names in unused.items()})


def report(certificates: Named, now: datetime) -> list[Report]:
    """Each certificate with its file, its names, when it ends, and what that means now."""
    return [
        {
            "file": file,
            "names": list(one.chain.names),
            "state": state(one.chain, now),
            "not_after": one.chain.not_after.isoformat().replace("+00:00", "Z"),
            "days_left": floor((one.chain.not_after - now) / _HUNDREDTH) / 100,
        }
        for file, one in certificates.items()
    ]
