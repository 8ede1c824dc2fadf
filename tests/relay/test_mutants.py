"""Each rule I1 to I10 is broken by one edit of the source, and the tests of the rule notice it.

A line that is not found any more means that the code changed: break the new code in the same way.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import pytest
import test_first_words as first_words
import test_invariants as tests
import test_invariants_bounds as bounds
import test_trial as trials
import test_trial_bounds as trial_bounds
from harness.fds import open_fds
from relay_rig import parts

ERRORS = ("TlsError", "TlsTruncatedError")


class Mutant(NamedTuple):
    part: str
    """The module of `parts` that is broken."""
    old: str
    new: str
    test: Any
    arguments: dict[str, Any]


def mutant(part: str, old: str, new: str, test: Any, **arguments: Any) -> Any:
    name = f"{test.__name__.split('_')[1]}-{'-'.join(new.split()[:6])}"
    return pytest.param(Mutant(part, old, new, test, arguments), id=name)


V4 = {"client": "v4", "upstream": "v4"}
UNIX = {"client": "unix", "upstream": "unix"}

HELD_GATE = """            if not self.writable:
                return BLOCKED
            verdict = self._flush()
            if verdict:
                return verdict
"""
FLUSH_LOOSELY = """            if self.writable:
                self._flush()
"""
PARTIAL_SEND = """                self.pending = memoryview(bytes(view[sent:size]))
                self.held = size - sent
"""
ASK_RECV = "if first or size == 0 or self.wary:"

MUTANTS = [
    mutant(
        "flow",
        HELD_GATE,
        "            if self.pipe and self.readable:\n"
        "                try:\n"
        "                    self.held += _splice(\n"
        "                        self.src.fileno(), self.pipe.write_fd, 65536, None, None, 3)\n"
        "                except BlockingIOError:\n"
        "                    self.readable = False\n" + HELD_GATE,
        tests.test_i1_fills_only_an_empty_pipe_when_the_destination_takes_little,
        **V4,
        mode="splice",
    ),
    mutant(
        "flow",
        "sent += _splice(pipe.read_fd, dst_fd, size - sent, None, None, SPLICE_FLAGS)",
        "sent += _splice(pipe.read_fd, dst_fd, size - sent, None, None, SPLICE_FLAGS); break",
        tests.test_i1_fills_only_an_empty_pipe_when_the_destination_takes_little,
        **V4,
        mode="splice",
    ),
    mutant(
        "flow",
        PARTIAL_SEND,
        "                self.held = 0\n",
        tests.test_i2_tiny_segments_into_a_full_destination_arrive_in_order,
        **V4,
        mode="copy",
    ),
    mutant(
        "flow",
        "self.pending = pending = pending[sent:]",
        "self.pending = pending = pending[sent + 1 :]",
        tests.test_i4_what_was_queued_before_a_reset_is_delivered_before_the_reset,
        **V4,
        mode="copy",
    ),
    mutant(
        "flow",
        HELD_GATE,
        FLUSH_LOOSELY,
        tests.test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order,
        **V4,
        mode="copy",
    ),
    mutant(
        "flow",
        "        if events & TROUBLE:\n            self.wary = True\n",
        "        if events & EPOLLRDHUP:\n            self.dst.shutdown(SHUT_WR)\n",
        tests.test_i3_a_fin_comes_after_all_that_was_queued_before_it,
        **V4,
        mode="splice",
    ),
    mutant(
        "flow",
        "self.flags = LAST_BYTES",
        "pass",
        tests.test_i3_the_last_bytes_and_the_fin_are_one_segment,
        **V4,
        mode="adaptive",
    ),
    mutant(
        "relay",
        "        if flow.end == BROKEN_SOURCE:\n",
        "        if flow.end == FINISHED:\n            twin.abandon()\n"
        "        if flow.end == BROKEN_SOURCE:\n",
        tests.test_i3_one_direction_runs_on_after_the_other_one_ended,
        **V4,
        mode="adaptive",
        closes_first="client",
    ),
    mutant(
        "flow",
        "                self.flags = LAST_BYTES\n",
        "                pass\n"
        "            if events & EPOLLERR:\n"
        "                return self.relay.obey(self, self._ended(BROKEN_SOURCE))\n",
        tests.test_i4_what_was_queued_before_a_reset_is_delivered_before_the_reset,
        **V4,
        mode="adaptive",
    ),
    mutant(
        "relay",
        "            if not twin.end:\n                twin.readable = twin.wary = True\n",
        "            twin.abandon()\n            if not twin.end:\n"
        "                twin.readable = twin.wary = True\n",
        tests.test_i4_a_response_received_before_the_reset_still_reaches_the_client,
        **V4,
        mode="adaptive",
    ),
    mutant(
        "flow",
        "if twin_end == BROKEN_DESTINATION or self.failed:",
        "if self.failed:",
        tests.test_i4_a_write_that_used_up_the_error_leaves_no_clean_end,
        mode="adaptive",
    ),
    mutant(
        "flow",
        "if twin_end == BROKEN_DESTINATION or self.failed:",
        "if twin_end == BROKEN_DESTINATION:",
        tests.test_i4_bytes_behind_an_urgent_byte_are_delivered_before_the_reset,
        mode="splice",
    ),
    mutant(
        "flow",
        "            self.failed = True",
        "            return self._ended(BROKEN_SOURCE)",
        tests.test_i4_bytes_behind_an_urgent_byte_are_delivered_before_the_reset,
        mode="splice",
    ),
    mutant(
        "flow",
        "            twin.probe()",
        "            pass",
        tests.test_i4_a_client_that_resets_after_its_fin_is_noticed_at_once,
        upstream="v4",
        mode="adaptive",
    ),
    mutant(
        "relay",
        "        if self.broken is None:\n",
        "        if self.up.end:\n",
        tests.test_i4_a_response_then_a_fin_then_a_reset_is_no_proper_end,
        mode="adaptive",
    ),
    mutant(
        "flow",
        "            self.means.pipes.discard(self.pipe)\n",
        "            self.means.pipes.take_back(self.pipe)\n",
        bounds.test_i5_a_pipe_that_holds_bytes_is_closed_and_reaches_no_stranger,
        **V4,
        mode="splice",
    ),
    mutant(
        "flow",
        HELD_GATE,
        FLUSH_LOOSELY,
        bounds.test_i6_a_stalled_destination_stops_the_reading_of_the_source,
        **V4,
        mode="copy",
    ),
    mutant(
        "relay",
        "        elif flow.muted:\n",
        "        elif flow.muted and not flow.bulk:\n",
        bounds.test_i6_a_source_that_is_ahead_wakes_the_worker_once,
        **V4,
        mode="splice",
    ),
    mutant(
        "relay",
        "            mask &= ~(EPOLLIN | EPOLLPRI)\n",
        "            mask &= ~EPOLLIN\n",
        bounds.test_i6_a_source_that_is_ahead_wakes_the_worker_once,
        **V4,
        mode="splice",
    ),
    mutant(
        "flow",
        "TURN: Final = 4 * 1024 * 1024",
        "TURN: Final = 1 << 40",
        bounds.test_i7_an_echo_beside_eight_bulk_flows_keeps_its_turns,
        mode="splice",
        piece=65536,
    ),
    mutant(
        "flow",
        "READ_COST: Final = 16 * 1024",
        "READ_COST: Final = 0",
        bounds.test_i7_an_echo_beside_eight_bulk_flows_keeps_its_turns,
        mode="copy",
        piece=1,
    ),
    mutant(
        "loop",
        "        self._closing.append(sock)",
        "        sock.detach()",
        bounds.test_i8_as_many_fds_after_many_sessions_as_before,
        mode="copy",
    ),
    mutant(
        "pipes",
        "        pipe.close()\n\n    def _make",
        "\n    def _make",
        bounds.test_i8_as_many_fds_after_many_sessions_as_before,
        mode="splice",
    ),
    mutant(
        "relay",
        "UNIX_INTEREST: Final = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET",
        "UNIX_INTEREST: Final = EPOLLIN | EPOLLRDHUP | EPOLLPRI",
        bounds.test_i9_a_fin_behind_a_full_destination_does_not_wake_the_loop,
        **V4,
        mode="adaptive",
    ),
    mutant(
        "flow",
        ASK_RECV,
        "if size == 0:",
        bounds.test_i9_bytes_around_an_urgent_byte_arrive_and_nothing_spins,
        kind="v4",
        mode="splice",
        fin=False,
    ),
    mutant(
        "flow",
        "if not full and not self.wary:",
        "if not full:",
        bounds.test_i9_bytes_around_an_urgent_byte_arrive_and_nothing_spins,
        kind="v4",
        mode="copy",
        fin=False,
    ),
    mutant(
        "flow",
        "if self.watching and not self.held:",
        "if self.watching and self.end:",
        bounds.test_i9_a_unix_destination_wakes_the_loop_only_while_blocked,
        mode="copy",
    ),
    mutant(
        "relay",
        "UNIX_INTEREST if family == AF_UNIX else TCP_INTEREST",
        "TCP_INTEREST",
        bounds.test_i9_a_unix_destination_that_keeps_up_does_not_wake_the_loop,
        mode="copy",
    ),
    mutant(
        "loop",
        "        self._closing.append(sock)",
        "        sock.close()",
        bounds.test_i10_an_event_of_a_closed_fd_reaches_nobody_who_has_its_number,
    ),
    mutant(
        "trial",
        "done = seen == FIN and relay.up.end",
        "done = False",
        trials.test_an_upstream_that_ends_after_the_client_did_has_done_its_work,
        **V4,
    ),
    mutant(
        "trial",
        "            all_kept = len(kept) <= self._limit\n",
        "            all_kept = True\n",
        trials.test_a_body_that_is_larger_than_what_is_kept_arrives_whole,
        **V4,
        mode="adaptive",
        finished=False,
    ),
    mutant(
        "trial",
        "relay.down.failed = seen == FAILED",
        "pass",
        trials.test_without_another_upstream_a_session_ends_as_it_does_without_a_trial,
        **V4,
        ending="reset",
        size=1,
        finished=False,
        late=True,
    ),
    mutant(
        "trial",
        "        self.relay = relay\n        self._upstream_events = upstream_events\n",
        "        self.relay = relay\n        self._finished = self._readable = False\n",
        trials.test_the_fin_comes_again_after_a_reset,
        **V4,
        size=1,
    ),
    mutant(
        "trial",
        "        if relay.up.muted:\n",
        "        if False:\n",
        trial_bounds.test_a_full_upstream_stops_the_reading_and_what_it_has_not_taken_comes_again_too,
        **V4,
    ),
    mutant(
        "flow",
        'bytes(self.pending or b"") + bytes(data)',
        "bytes(data)[:-1] + b'!'",
        trial_bounds.test_a_full_upstream_that_answers_gets_the_rest_by_the_relay,
        **V4,
    ),
    mutant(
        "trial",
        "            if up.held:\n                up.flush_pending()\n",
        "            up.moved = max(0, up.moved)\n",
        first_words.test_it_comes_first_and_whole_however_it_is_cut_and_is_not_counted,
        **V4,
        replay=4096,
        mode="copy",
        size=1,
        seed=1,
    ),
    mutant(
        "flow",
        'bytes(self.pending or b"") + bytes(data)',
        "bytes(data)",
        first_words.test_a_replacement_may_speak_before_it_has_read_it,
        **V4,
    ),
    mutant(
        "trial",
        "            up.writable = False\n",
        "            up.moved = len(kept)\n",
        trial_bounds.test_whatever_upstreams_do_the_last_one_has_every_byte_once,
        seed=1,
    ),
    mutant(
        "flow",
        "return bool(self.src.recv(1, MSG_PEEK | MSG_DONTWAIT))",
        "return bool(self.src.recv(1, MSG_DONTWAIT))",
        trials.test_one_byte_of_an_upstream_binds_the_session_to_it,
        **V4,
        mode="adaptive",
        ending="fin",
        together=True,
    ),
]


def broken_source(module: ModuleType, old: str, new: str) -> CodeType:
    """A module with one edit."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} has {source.count(old)} times: {old}"
    return compile(source.replace(old, new), f"{module.__name__} (broken)", "exec")


@pytest.fixture
def no_fds_left() -> Iterator[None]:
    """Close what a mutant leaked."""
    before = open_fds()
    yield
    for fd, target in open_fds().items():
        if before.get(fd) != target:
            os.close(fd)


@pytest.mark.usefixtures("no_fds_left")
@pytest.mark.parametrize("case", MUTANTS)
def test_a_relay_that_breaks_a_rule_is_caught_by_the_test_of_the_rule(
    monkeypatch: pytest.MonkeyPatch, case: Mutant
) -> None:
    catch(monkeypatch, case)


def catch(monkeypatch: pytest.MonkeyPatch, case: Mutant) -> None:
    """Break a part, and have the test of the rule fail."""
    module = getattr(parts, case.part)
    copy = ModuleType(module.__name__ + "_broken")
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    exec(broken_source(module, case.old, case.new), copy.__dict__)
    monkeypatch.setattr(parts, case.part, copy)
    monkeypatch.setattr(parts, "patience", 0.5)
    if case.part == "flow":
        monkeypatch.setattr(parts.relay, "Flow", copy.Flow)
    for name in ERRORS:  # a test knows the errors of the whole module
        if name in copy.__dict__:
            setattr(copy, name, getattr(module, name))
    arguments = dict(case.arguments)
    if "monkeypatch" in inspect.signature(case.test).parameters:
        arguments["monkeypatch"] = monkeypatch
    with pytest.raises((AssertionError, OSError, pytest.fail.Exception)) as caught:
        case.test(**arguments)
    print(f"caught: {caught.value}")
