"""What happened, counted in shared memory: one region per worker, one writer per region.

A region is made of *cells*. A cell has what was counted of the sessions of one listener that took
one route to one upstream of one pool: the finest that is told apart; whoever reads adds up. Each
cell carries its names as text, so a region can be read by whoever maps it, with no table of names
beside it: by a worker that takes the place of a dead one, by the supervisor. A session without an
upstream, pool or route is counted where these names are empty.

Slots are aligned 64-bit integers, read and written through a memoryview cast to "Q", which never
tears. A cell is found and made by its writer alone; while cells change places the region's
sequence number is odd, and a reader that saw it change reads again.

Units: bytes, and microseconds where a name says nothing else. Histograms have BUCKETS buckets: the
first one holds values up to 64, each further one up to twice as much, the last one all the rest
(`bucket`). In front of the buckets stands the sum of the values.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from weakref import WeakSet

if TYPE_CHECKING:
    from spliceproxy.telemetry.counts import Counts

MAX_CELLS: Final = 8192
"""Cells of one worker. What finds no place any more is counted with coarser names."""
RESERVED: Final = 1024
"""Places for cells of listeners alone: there is one for each (MAX_LISTENERS of the board)."""

# The head of a region.
USED: Final = 0
"""Cells that have a place."""
SEQUENCE: Final = 1
"""Odd while cells change places."""

WAKES: Final = 8
"""Times that the loop woke up."""
EVENTS: Final = 9
"""Events that it was told in all."""
BUSY: Final = 10
"""Microseconds between waking up and waiting again, in all."""
LAG: Final = 11
"""The longest of these in the last second, microseconds: how long an event may have waited."""
CPU: Final = 12
"""CPU time of the process, microseconds."""
PIPES_LENT: Final = 13
PIPES_POOLED: Final = 14
PIPES_MADE: Final = 15
PIPES_REFUSED: Final = 16
ACCEPT_PAUSES: Final = 17
RECORDS: Final = 18
"""Session records that were to be written."""
RECORDS_WRITTEN: Final = 19
RECORDS_DROPPED: Final = 20
"""Those that nobody took, or that died with a worker before they were written."""
DEATHS: Final = 21
"""Times that the worker of this region died."""
WORKER_SLOTS: Final[dict[str, int]] = {
    "wakes": WAKES,
    "events": EVENTS,
    "busy_us": BUSY,
    "lag_us": LAG,
    "cpu_us": CPU,
    "pipes_lent": PIPES_LENT,
    "pipes_pooled": PIPES_POOLED,
    "pipes_made": PIPES_MADE,
    "pipes_refused": PIPES_REFUSED,
    "accept_pauses": ACCEPT_PAUSES,
    "records": RECORDS,
    "records_written": RECORDS_WRITTEN,
    "records_dropped": RECORDS_DROPPED,
    "deaths": DEATHS,
}
"""What a region has of its worker beside the cells, by name."""
_GAUGES: Final = (LAG, PIPES_LENT, PIPES_POOLED)

# The kinds of ends that were met: texts, each one as long as _KIND words allow.
_KINDS: Final = 64
_KIND: Final = 8
MAX_KINDS: Final = 64
_CELLS: Final = _KINDS + _KIND * MAX_KINDS

# One cell: its names, then the slots, counted from behind the names.
NAMES: Final = 48
"""Words with the names of a cell, in front of slot 0."""
_NOBODY: Final = bytes(8)
ACTIVE: Final = 0
"""Sessions that are connected now; the first slot, which is written most."""
COPIED_UP: Final = 1
COPIED_DOWN: Final = 2
SPLICED_UP: Final = 3
SPLICED_DOWN: Final = 4
"""Payload bytes by the path that they took. Their sum has no slot: whoever looked between two
writes would find less of one of the three than at the look before, and no counter goes back."""
RETRIES: Final = 5
"""Further upstreams tried by sessions that ended."""
TLS_OK: Final = 6
"""Handshakes of clients; on the listener's own cell."""
TLS_FAILED: Final = 7
ENDS: Final = 16
"""Sessions that ended, by the number of the kind of their end."""
FAILURES: Final = ENDS + MAX_KINDS
FAILURE_WHYS: Final = (
    "connect_refused",
    "connect_timeout",
    "connect_failed",
    "no_source_port",
    "no_resources",
    "tls_handshake",
)
"""Why one try to connect failed; FAILURES has a slot for each."""
_FAILURE_SLOTS: Final = 8

BUCKETS: Final = 34
HISTOGRAM: Final = 1 + BUCKETS
"""Slots of a histogram: the sum, then the buckets."""
LAST: Final = BUCKETS - 1
"""The bucket for all that is larger than the bounds of the others."""
CONNECT: Final = FAILURES + _FAILURE_SLOTS
FIRST_BYTE: Final = CONNECT + HISTOGRAM
DURATION: Final = FIRST_BYTE + HISTOGRAM
QUEUE: Final = DURATION + HISTOGRAM
TLS: Final = QUEUE + HISTOGRAM
SIZE: Final = TLS + HISTOGRAM
"""Bytes of a session, both ways."""
HISTOGRAMS: Final[dict[str, int]] = {
    "connect": CONNECT,
    "first_byte": FIRST_BYTE,
    "duration": DURATION,
    "queue": QUEUE,
    "tls": TLS,
    "size": SIZE,
}
SLOTS: Final = SIZE + HISTOGRAM
_CELL: Final = -(-(NAMES + SLOTS) // 8) * 8  # whole cache lines

LAYOUT: Final = (2, MAX_CELLS, _CELLS, _CELL, SLOTS, MAX_KINDS)
"""What two programs must have in common so that one can read what the other counts. The first
number changes where a slot gets another meaning."""

OTHERS: Final = "others"
"""Of a pool's cells the one that takes in those of upstreams that left."""

KEEP_DEPARTED: Final = 1000
"""Cells whose names left the configuration that keep their place; the oldest give up theirs."""


class CellKey(NamedTuple):
    """Whose sessions a cell counts. A name is empty where there is none."""

    listener: str
    route: str = ""
    pool: str = ""
    upstream: str = ""


class End(NamedTuple):
    """How a session ended: see telemetry/record.py."""

    closed_by: str
    how: str
    why: str


DEATH: Final = End("proxy", "close", "worker_died")
OTHER_END: Final = End("proxy", "reset", "internal_error")
"""For more kinds of ends than there are places; there are not so many."""


def region_bytes() -> int:
    """Bytes of one region: whole pages."""
    return -(-(_CELLS + _CELL * MAX_CELLS) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


def bucket(value: int) -> int:
    """The number of the bucket of a histogram that holds `value`."""
    number = (value - 1 >> 6).bit_length() if value > 0 else 0
    return number if number < LAST else LAST


def upper_bounds() -> tuple[int, ...]:
    """The largest value of each bucket but the last one."""
    return tuple(64 << number for number in range(LAST))


class Cell:
    """Where a writer counts what has certain names: `slots[cell.at + COPIED_UP] += 1`.

    It may be kept for as long as one likes: it says so when the place is another one.
    """

    __slots__ = ("__weakref__", "at")

    def __init__(self, at: int) -> None:
        self.at = at


class Region:
    """One worker's region, for its writer: that worker, or the supervisor while it is away.

    `slots` is the memory of all of it, `kinds` the slots of the ends that were met so far.
    """

    def __init__(self, words: memoryview) -> None:
        """`words`: region_bytes() of memory, cast to "Q". What is in it is gone on with."""
        self.slots = words
        if words[SEQUENCE] % 2:  # its writer died while cells changed places
            words[SEQUENCE] += 1
        self._cells: dict[CellKey, Cell] = {}
        # Plain tuples find the same, and are made in a tenth of the time.
        self._find = cast("Callable[[tuple[str, str, str, str]], Cell | None]", self._cells.get)
        self._free: list[int] = []
        for cell in places(words[USED]):
            key = key_of(words, cell)
            if key is None:
                self._free.append(cell)
            else:
                self._cells[key] = Cell(cell)
        self.kinds: dict[tuple[str, str, str], int] = {}
        for number, end in enumerate(kinds_of(words)):
            self.kinds[end] = ENDS + number
        self._departed: dict[CellKey, None] = {}
        self._folded: dict[Cell, WeakSet[Cell]] = {}
        """By a cell that may go too: those that were added to it and that somebody still keeps."""

    def cell(self, listener: str, route: str = "", pool: str = "", upstream: str = "") -> Cell:
        """The cell of these names, made where it is missing."""
        cell = self._find((listener, route, pool, upstream))
        if cell is None:
            return self._make(CellKey(listener, route, pool, upstream))
        return cell

    def end(self, closed_by: str, how: str, why: str) -> int:
        """The slot, in every cell, of the sessions that ended so."""
        known = self.kinds.get((closed_by, how, why))
        if known is not None:
            return known
        end, number = End(closed_by, how, why), len(self.kinds)
        if number >= MAX_KINDS - 1:
            end = OTHER_END
            if end in self.kinds:
                return self.kinds[end]
        _put_text(self.slots, _KINDS + number * _KIND, _KIND, " ".join(end))
        self.kinds[end] = slot = ENDS + number
        return slot

    def keep(self, configured: Callable[[CellKey], bool]) -> None:
        """Have room for what comes: of the cells that are not `configured` any more, only
        KEEP_DEPARTED stay, and the oldest go. What they counted goes to a cell of their pool, so
        that what is told of pools never falls; where the pool left too, to the listener's own one.
        """
        if len(self._cells) <= KEEP_DEPARTED:
            return
        for key in self._cells:
            one = key._replace(upstream="") if key.upstream == OTHERS else key
            if not key.pool or configured(one):
                self._departed.pop(key, None)
            else:
                self._departed.setdefault(key)
        surplus = len(self._departed) - KEEP_DEPARTED
        for key in list(self._departed):
            if surplus <= 0:
                break
            if not self.slots[self._cells[key].at + ACTIVE]:
                surplus -= 1
                del self._departed[key]
                with_pool = key.upstream and configured(CellKey(key.listener, "", key.pool))
                names = ("", key.pool, OTHERS) if with_pool else ()
                self._fold(key, self.cell(key.listener, *names))

    def bury(self, lost: Mapping[str, int]) -> int:
        """The worker is dead: its gauges are 0, and what it had open ended by `worker_died`.

        `lost` are its live sessions by listener, connected or not. Returns how many session
        records died with it before they were written.
        """
        slots = self.slots
        slot = self.end(*DEATH)
        left = dict(lost)
        for key, cell in self._cells.items():
            if active := slots[cell.at + ACTIVE]:
                left[key.listener] = left.get(key.listener, 0) - active
                slots[cell.at + slot] += active
                slots[cell.at + ACTIVE] = 0
        for listener, number in left.items():
            if number > 0:  # they had no upstream yet
                slots[self.cell(listener).at + slot] += number
        for index in _GAUGES:
            slots[index] = 0
        missing = slots[RECORDS] - slots[RECORDS_WRITTEN] - slots[RECORDS_DROPPED]
        slots[RECORDS_DROPPED] += missing
        slots[DEATHS] += 1
        return missing

    def absorb(self, cells: Mapping[CellKey, Counts]) -> None:
        """Count all that others counted, but for what they have open."""
        slots = self.slots
        for key, counts in cells.items():
            at = self.cell(*key).at
            for index, number in enumerate(counts.values):
                if number and index != ACTIVE:
                    slots[at + index] += number
            for end, number in counts.ends.items():
                slots[at + self.end(*end)] += number

    def _make(self, key: CellKey) -> Cell:
        slots = self.slots
        if self._free:
            at = self._free.pop()
        elif slots[USED] < (MAX_CELLS - RESERVED if key.pool else MAX_CELLS):
            at = place(slots[USED])
        else:
            return self._coarser(key)
        slots[SEQUENCE] += 1
        _put_text(slots, at - NAMES, NAMES, "\0".join(key) + "\0")
        if at == place(slots[USED]):
            slots[USED] += 1
        slots[SEQUENCE] += 1
        self._cells[key] = cell = Cell(at)
        return cell

    def _coarser(self, key: CellKey) -> Cell:
        """All places are taken: count it with its listener; where not even that has one, because
        hundreds came and went, with the first one."""
        if key.pool:
            return self.cell(key.listener)
        return next(iter(self._cells.values()))

    def _fold(self, key: CellKey, into: Cell) -> None:
        """Add a cell to another one, and give up its place; whoever has it counts there from now
        on."""
        cell, target = self._cells.pop(key), into.at
        source = cell.at
        followers = self._folded.pop(cell, WeakSet())
        followers.add(cell)
        for one in followers:
            one.at = target
        if into is not self._cells.get(CellKey(key.listener)):  # that one stays
            self._folded.setdefault(into, WeakSet()).update(followers)
        slots = self.slots
        slots[SEQUENCE] += 1
        for index in range(SLOTS):
            if slots[source + index]:
                slots[target + index] += slots[source + index]
                slots[source + index] = 0
        slots[source - NAMES] = 0
        slots[SEQUENCE] += 1
        self._free.append(source)


def place(number: int) -> int:
    """Slot 0 of a cell."""
    return _CELLS + number * _CELL + NAMES


def places(used: int) -> Iterator[int]:
    """Slot 0 of each of the first `used` cells."""
    return map(place, range(used))


def key_of(words: memoryview, cell: int) -> CellKey | None:
    """Whose cell this is; None: nobody's now."""
    return key_of_names(bytes(words[cell - NAMES : cell]))


def key_of_names(raw: bytes) -> CellKey | None:
    """The same of the NAMES words in front of a cell."""
    if raw.startswith(_NOBODY):
        return None
    return CellKey(*raw.decode("utf-8", "replace").split("\0")[:4])


def kinds_of(words: memoryview) -> Iterator[End]:
    """The kinds of ends that the region knows, in order."""
    for number in range(MAX_KINDS):
        at = _KINDS + number * _KIND
        if not words[at]:
            return
        text = bytes(words[at : at + _KIND].cast("B")).rstrip(b"\0").decode()
        yield End(*text.split(" "))


def _put_text(words: memoryview, at: int, size: int, text: str) -> None:
    """Write text into `size` words. The first word goes last: while it is 0 nobody reads it."""
    raw = text.encode()[: size * 8].ljust(size * 8, b"\0")
    numbers = memoryview(raw).cast("Q")
    for index in range(size - 1, -1, -1):
        words[at + index] = numbers[index]
