"""Files that are watched: a change of any of them is heard of at once, and compared by itself.

inotify(7) only wakes: what has changed is found by comparing the state of each file, as it is at
the end of all links. So a file that is written in place, replaced by rename or reached over a link
that is set anew (as Kubernetes does for a ConfigMap) are one and the same; and where inotify says
nothing (a network file system, a file mounted alone into a container) a look every five seconds
finds it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Set
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.hosts import Signature, signature

if TYPE_CHECKING:
    from asyncinotify import Inotify, Watch

_log = structlog.get_logger()

_LOOK = 5.0
"""Seconds between two looks that nothing asked for."""
_MOST_LINKS = 40
"""Links in one path, as the kernel counts; path_resolution(7)."""

_Directory = tuple[int, int]
"""Which directory it is: device and inode."""


class Watcher:
    """Watches files that may be other ones each time; needs a running loop."""

    def __init__(
        self,
        paths: Callable[[], Collection[Path]],
        on_change: Callable[[Set[Path]], Awaitable[None]],
        *,
        gather: float,
    ) -> None:
        """`paths` says which files matter now; `on_change` hears which of them are different,
        appeared or are gone, at the latest `gather` seconds after the last news and with nothing
        else under way. A path may be a pattern that no file has for a name: then the directory
        above it wakes."""
        self._paths = paths
        self._on_change = on_change
        self._gather = gather
        self._known: dict[Path, Signature] = {path: signature(path) for path in paths()}
        self._watches: dict[_Directory, Watch] = {}
        self._stirred = asyncio.Event()
        self._told_limit = False
        self._task = asyncio.create_task(self._run(), name="watch files")

    def stir(self) -> None:
        """Look now: `paths` says something else."""
        self._stirred.set()

    def note(self, path: Path) -> None:
        """The file is about to be read: as it is now it is no news."""
        self._known[path] = signature(path)

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        with ExitStack() as stack:
            inotify = self._open(stack)
            listening = asyncio.create_task(self._listen(inotify)) if inotify else None
            try:
                while True:
                    self._stirred.clear()
                    if inotify is not None:
                        self._arm(inotify)
                    changed = self._compare()
                    if changed:
                        await self._on_change(changed)
                    else:
                        await self._wait()
            finally:
                if listening is not None:
                    listening.cancel()
                    with suppress(asyncio.CancelledError):
                        await listening

    def _open(self, stack: ExitStack) -> Inotify | None:
        from asyncinotify import Inotify

        try:
            return stack.enter_context(Inotify())
        except OSError as error:
            self._tell_limit(error)
            return None

    async def _listen(self, inotify: Inotify) -> None:
        async for _event in inotify:
            self._stirred.set()

    async def _wait(self) -> None:
        """Until something stirred and was quiet for a moment, or for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await self._stirred.wait()
            await asyncio.sleep(self._gather)

    def _compare(self) -> set[Path]:
        """The files that are not as they were."""
        now = {path: signature(path) for path in self._paths()}
        before, self._known = self._known, now
        return {path for path in now.keys() | before.keys() if now.get(path) != before.get(path)}

    def _arm(self, inotify: Inotify) -> None:
        """Watch the directories that the paths lead through, and no others."""
        from asyncinotify import Mask

        wanted: dict[_Directory, Path] = {}
        for path in self._paths():
            for directory in _directories(path):
                with suppress(OSError):
                    found = directory.stat()
                    wanted[found.st_dev, found.st_ino] = directory
        for key in self._watches.keys() - wanted.keys():
            watch = self._watches.pop(key)
            with suppress(OSError):  # the kernel gave it up with the directory
                inotify.rm_watch(watch)
        mask = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVE | Mask.DELETE | Mask.DELETE_SELF
        for key in wanted.keys() - self._watches.keys():
            try:
                watch = inotify.add_watch(wanted[key], mask | Mask.MOVE_SELF | Mask.ONLYDIR)
                self._watches[key] = watch
            except OSError as error:
                self._tell_limit(error)

    def _tell_limit(self, error: OSError) -> None:
        if not self._told_limit:
            self._told_limit = True
            _log.warning(
                f"files cannot be watched; they are looked at every {_LOOK:g} s",
                reason=error.strerror,
                remedy="sysctl fs.inotify.max_user_watches and fs.inotify.max_user_instances",
            )


def _directories(path: Path) -> Iterator[Path]:
    """The directories in which a change may make `path` another file: those of the links on the
    way, and that of the file at the end, or the last one that is there."""
    todo = deque(path.absolute().parts[1:])
    here, links = Path("/"), 0
    while todo:
        part = todo.popleft()
        if part == "..":
            here = here.parent
            continue
        there = here / part
        try:
            target = there.readlink()
        except OSError:
            if not todo or not there.exists():
                yield here
                return
            here = there
            continue
        yield here
        links += 1
        if links > _MOST_LINKS:
            return
        if target.is_absolute():
            here, target = Path("/"), target.relative_to("/")
        todo.extendleft(reversed(target.parts))
