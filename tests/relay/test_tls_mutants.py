"""Each promise of the TLS flows is broken by one edit, and a test of the promise notices it."""

from __future__ import annotations

import pytest
import test_tls_end as ends
import test_tls_end_talk as talk
import test_tls_flow as flows
import test_tls_flow_ends as flow_ends
import test_tls_model as models
from test_mutants import Mutant, catch, mutant
from test_mutants import no_fds_left as no_fds_left

CLIENT = {"tls": ("1.3", "")}
UPSTREAM = {"tls": ("", "1.3")}
V4 = {"client": "v4", "upstream": "v4"}

MUTANTS = [
    mutant(
        "trial",
        "            self._answer(relay)\n",
        "            relay.down.on_writable()\n",
        flows.test_i2_a_client_that_takes_no_answer_and_resets_makes_no_gap,
        upstream="v4",
    ),
    mutant(
        "tls_end",
        "self._outgoing.pending > UNREAD",
        "self.unsent > UNREAD",
        ends.test_a_peer_that_owes_us_reading_is_still_read_from,
        version="1.3",
        server=False,
    ),
    mutant(
        "tls_end",
        "            self._left = record[: self._receive(record)]",
        "            self._left = record\n            self._left = record[: self._receive(record)]",
        ends.test_every_byte_is_read_once_however_small_the_view_is,
        version="1.3",
        server=True,
        size=1000,
    ),
    mutant(
        "tls_end",
        "        self._barren += size\n",
        "        self._barren += size\n        if self._barren > BARREN:\n"
        '            self._fail(TlsError, "too early")\n',
        ends.test_a_full_buffer_after_a_cut_record_is_no_record_without_data,
        version="1.3",
    ),
    mutant(
        "tls_end",
        "        self.more = True\n        try:",
        "        self.more = not self._dry\n        try:",
        flow_ends.test_i3_an_end_in_the_segment_of_the_last_data_is_seen,
        version="1.3",
        together=True,
    ),
    mutant(
        "tls_end",
        "            if self.fault is None:  #",
        "            if True:  #",
        ends.test_after_the_last_data_it_says_that_an_error_is_there,
        version="1.3",
    ),
    mutant(
        "tls_end",
        "        if self._incoming.pending:\n            self.more = True\n",
        "",
        flows.test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order,
        **CLIENT,
        **V4,
        rate=300_000,
        seed=1,
    ),
    mutant(
        "tls_end",
        "unseen = self._incoming.read()",
        'unseen = b""',
        ends.test_close_notify_closes_one_direction_whatever_is_pending_in_the_other,
        version="1.3",
        server=True,
        state=ends._records,
        looked="a record",
    ),
    mutant(
        "tls_end",
        "                self._silent_since_close = False",
        "                pass",
        ends.test_a_fin_after_more_data_than_our_close_notify_is_a_truncation,
        version="1.3",
        server=True,
    ),
    mutant(
        "tls_end",
        "            if self._silent_since_close:\n                self._closed = True",
        "            if False:\n                self._closed = True",
        ends.test_a_fin_in_reply_to_our_close_notify_is_an_end,
        version="1.3",
        server=True,
    ),
    mutant(
        "tls_end",
        "if self._silent_since_close is None and was_reset(self.sock):",
        "if False:",
        ends.test_a_reset_is_told_after_what_was_read_before_it,
        version="1.3",
    ),
    mutant(
        "tls_end",
        '            self._fail(TlsTruncatedError, "FIN without close_notify")',
        "            self._closed = True\n            return",
        flow_ends.test_i4_what_came_before_a_break_is_delivered_before_the_reset,
        **CLIENT,
        **V4,
        closes_first="client",
        how="truncated",
    ),
    mutant(
        "tls_end",
        "        if self._barren > BARREN:",
        "        if False:",
        talk.test_key_updates_without_an_end_are_one,
        asked=False,
    ),
    mutant(
        "tls_end",
        "        if self._outgoing.pending > UNREAD:",
        "        if False:",
        talk.test_key_updates_whose_answers_nobody_reads_are_bounded,
    ),
    mutant(
        "tls_end",
        "                    return self.flush()  #",
        "                    self.flush()\n                    return True  #",
        talk.test_a_handshake_is_done_when_all_of_it_is_sent,
        version="1.3",
        kind="v4",
    ),
    mutant(
        "tls_end",
        "pieces[done] = memoryview(piece)[sent:]",
        "pieces[done] = memoryview(piece)[sent + 1 :]",
        flows.test_i2_tiny_buffers_and_a_slow_reader_lose_nothing,
        **CLIENT,
        **V4,
    ),
    mutant(
        "tls_flow",
        "            writes.close_write()\n            try:",
        "            try:",
        flow_ends.test_i3_one_direction_runs_on_after_the_other_one_ended,
        **UPSTREAM,
        **V4,
        closes_first="client",
        by="fin",
    ),
    mutant(
        "tls_flow",
        "not self.failed and self.twin.end != BROKEN_DESTINATION:",
        "True:",
        flow_ends.test_i4_a_write_that_used_up_the_error_leaves_no_clean_end,
        **CLIENT,
    ),
    mutant(
        "tls_flow",
        "        self.moved += self._sealed\n        self._sealed = self.held = 0\n",
        "        self._sealed = self.held = 0\n",
        flows.test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order,
        **UPSTREAM,
        **V4,
        rate=None,
        seed=1,
    ),
    mutant(
        "tls_flow",
        "            self.held = writes.unsent\n            raise BlockingIOError\n",
        "            pass\n",
        flows.test_i6_a_stalled_destination_stops_the_reading_and_wakes_nobody,
        **UPSTREAM,
        **V4,
        closes_first="client",
    ),
    mutant(
        "tls_flow",
        "            if reads.unsent:\n",
        "            if False:\n",
        flow_ends.test_i4_a_client_that_fails_is_told_by_an_alert,
        version="1.3",
    ),
    mutant(
        "tls_flow",
        "        twin.writable = False\n        self.relay.obey(twin, BLOCKED)\n",
        "        self.relay.obey(twin, BLOCKED)\n",
        models.test_answers_of_a_trial_to_a_client_that_does_not_read_go_when_it_does,
        client="v4",
    ),
    mutant(
        "tls_flow",
        "return self.wary or self._reads.more",
        "return self.wary",
        flows.test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order,
        **CLIENT,
        **V4,
        rate=None,
        seed=1,
    ),
    mutant(
        "tls_flow",
        "return self.wary or self._reads.more",
        "return True",
        flows.test_i9_a_small_message_costs_one_recv_and_one_send,
        version="1.3",
    ),
    mutant(
        "tls_flow",
        "return super().taken + self._sealed",
        "return super().taken",
        models.test_a_full_upstream_that_answers_gets_the_rest_by_the_relay,
        **UPSTREAM,
        **V4,
    ),
    mutant(
        "tls_flow",
        "        budget = min(budget, TLS_TURN)\n",
        "",
        flows.test_i7_a_turn_moves_a_bounded_number_of_bytes,
        **CLIENT,
    ),
    mutant(
        "trial",
        "            self._answer(relay)\n",
        "            pass\n",
        models.test_answers_of_a_trial_to_a_client_that_does_not_read_go_when_it_does,
        client="v4",
    ),
    mutant(
        "trial",
        "            except OSError:  # TLS with the upstream has failed\n",
        "            except TypeError:\n",
        models.test_an_alert_of_an_upstream_between_two_turns_ends_the_session,
        version="1.3",
    ),
]


@pytest.mark.usefixtures("no_fds_left", "closed_sockets")
@pytest.mark.parametrize("case", MUTANTS)
def test_a_flow_that_breaks_a_promise_of_tls_is_caught_by_its_test(
    monkeypatch: pytest.MonkeyPatch, case: Mutant
) -> None:
    catch(monkeypatch, case)
