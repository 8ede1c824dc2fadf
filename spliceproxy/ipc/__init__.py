"""The only door between the supervisor's wing and the workers' wing.

One UNIX seqpacket pair per worker (`channel`) carries small typed `messages`, and listening sockets
beside them (SCM_RIGHTS). What is large, the configuration (`plans`), travels as a sealed memfd: a
seqpacket message of 300 KB is EMSGSIZE, and a sealed memfd can be read but never changed under the
reader. It goes from the supervisor to its workers only, and only for as long as both are the same
program, so it is pickled (`sealed`).
"""

from __future__ import annotations

from spliceproxy.ipc.channel import MAX_MESSAGE, Channel, HasFileno, OwnedFd
from spliceproxy.ipc.messages import (
    MOST_NAMED,
    Configure,
    End,
    Failing,
    Find,
    Found,
    Message,
    Ready,
    Release,
    Reopen,
    Reset,
    Retire,
    Retired,
    Serve,
    Spare,
    Stop,
    Warned,
    WasReset,
    Watch,
    decode,
    encode,
)
from spliceproxy.ipc.plans import (
    ALLOW,
    DENY,
    CertificatePlan,
    EjectPlan,
    IntakePlan,
    LimitsPlan,
    ListenerPlan,
    PoolPlan,
    PoolTlsPlan,
    QueuePlan,
    RelayPlan,
    RoutePlan,
    Snapshot,
    Sockaddr,
    TcpPlan,
    TlsPlan,
    UpstreamPlan,
)

__all__ = [
    "ALLOW",
    "DENY",
    "MAX_MESSAGE",
    "MOST_NAMED",
    "CertificatePlan",
    "Channel",
    "Configure",
    "EjectPlan",
    "End",
    "Failing",
    "Find",
    "Found",
    "HasFileno",
    "IntakePlan",
    "LimitsPlan",
    "ListenerPlan",
    "Message",
    "OwnedFd",
    "PoolPlan",
    "PoolTlsPlan",
    "QueuePlan",
    "Ready",
    "RelayPlan",
    "Release",
    "Reopen",
    "Reset",
    "Retire",
    "Retired",
    "RoutePlan",
    "Serve",
    "Snapshot",
    "Sockaddr",
    "Spare",
    "Stop",
    "TcpPlan",
    "TlsPlan",
    "UpstreamPlan",
    "Warned",
    "WasReset",
    "Watch",
    "decode",
    "encode",
]
