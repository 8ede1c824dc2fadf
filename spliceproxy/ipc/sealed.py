"""The snapshot that workers are told, as a sealed memfd.

It is pickled in pieces: a worker reads one after another, and has sessions to serve between them.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
from collections.abc import Generator
from dataclasses import replace
from typing import BinaryIO, TypeVar

from spliceproxy.errors import IpcError
from spliceproxy.ipc import OwnedFd, Snapshot, UpstreamPlan

_T = TypeVar("_T")

PIECE = 500
"""Upstreams in one piece of a sealed snapshot: about a millisecond's work for a worker."""


def memfd_of(data: bytes) -> OwnedFd:
    """A memfd with these bytes, to be sent away. Raises OSError."""
    memfd = OwnedFd(os.memfd_create("spliceproxy-answer", os.MFD_CLOEXEC))
    with open(memfd.fileno(), "wb", closefd=False) as file:
        file.write(data)
    return memfd


def seal(snapshot: Snapshot) -> int:
    """Write `snapshot` into a sealed memfd and return its fd, which the caller owns."""
    fd = os.memfd_create("spliceproxy-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        _write(snapshot, file)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _write(snapshot: Snapshot, file: BinaryIO) -> None:
    """The snapshot without upstreams, then for each pool its upstreams, piece by piece."""
    bare = tuple(replace(pool, upstreams=()) for pool in snapshot.pools)
    pickle.dump(replace(snapshot, pools=bare), file)
    for pool in snapshot.pools:
        pickle.dump(len(pool.upstreams), file)
        for at in range(0, len(pool.upstreams), PIECE):
            pickle.dump(pool.upstreams[at : at + PIECE], file)


def unseal(fd: int) -> Snapshot:
    """Read the snapshot behind `fd`, which stays open and may be read by others at the same time.

    Raises IpcError where it holds something else.
    """
    return at_once(unseal_in_steps(fd))


def unseal_in_steps(fd: int) -> Generator[None, None, Snapshot]:
    """As `unseal`, with a pause after each piece."""
    file = io.BytesIO(os.pread(fd, os.fstat(fd).st_size, 0))
    bare = pickle.load(file)
    if not isinstance(bare, Snapshot):
        raise IpcError(f"expected a Snapshot, received a {type(bare).__name__}")
    pools = []
    for pool in bare.pools:
        yield
        size: int = pickle.load(file)
        upstreams: list[UpstreamPlan] = []
        while len(upstreams) < size:
            upstreams += pickle.load(file)
            yield
        pools.append(replace(pool, upstreams=tuple(upstreams)))
    return replace(bare, pools=tuple(pools))


def at_once(steps: Generator[None, None, _T]) -> _T:
    """What `steps` return in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: _T = end.value
            return value
