"""The last ten minutes: what is sampled, how it begins, and what bounds it."""

from __future__ import annotations

import json

from harness.counted import CONFIG, A, B, CountedProxy, run

from spliceproxy.admin.figures import TOTAL, pool_scope, upstream_scope
from spliceproxy.admin.history import SAMPLES, TRACKS, History


def _row(number: float) -> list[float]:
    """Values of all tracks, so that each can be told from the others."""
    return [number + column / 10 for column in range(len(TRACKS))]


def test_numbers_come_in_the_order_of_time_and_begin_with_null() -> None:
    history = History()
    for number in range(3):
        rows = {TOTAL: _row(number), upstream_scope("app", "a"): _row(number)}
        if number == 2:
            rows[pool_scope("late")] = _row(7)
        history.add(100.0 + number, rows)
    found = history.answer()
    assert found["interval_seconds"] == 5
    assert found["times"] == [100.0, 101.0, 102.0]
    assert found["total"]["sessions"] == [0.0, 1.0, 2.0]
    assert found["total"]["connect_failures"] == [0.5, 1.5, 2.5]
    assert found["pools"]["late"]["ended"] == [None, None, 7.1]
    assert found["upstreams"] == {
        "app": {
            "a": {
                "sessions": [0.0, 1.0, 2.0],
                "bytes_up": [0.3, 1.3, 2.3],
                "bytes_down": [0.4, 1.4, 2.4],
            }
        }
    }
    assert json.loads(json.dumps(found)) == found


def test_ten_minutes_are_kept() -> None:
    history = History()
    for number in range(SAMPLES + 30):
        rows = {TOTAL: _row(number)}
        if number >= SAMPLES:
            rows[pool_scope("late")] = _row(number)
        history.add(float(number), rows)
    found = history.answer()
    assert found["times"] == [float(number) for number in range(30, SAMPLES + 30)]
    assert found["total"]["sessions"] == found["times"]
    late = found["pools"]["late"]["sessions"]
    assert late[:-30] == [None] * (SAMPLES - 30)
    assert late[-30:] == found["times"][-30:]


def test_a_name_that_left_has_no_history_when_it_comes_back() -> None:
    history = History()
    history.add(1.0, {TOTAL: _row(1), pool_scope("app"): _row(1)})
    history.add(2.0, {TOTAL: _row(2)})
    assert history.answer()["pools"] == {}
    history.add(3.0, {TOTAL: _row(3), pool_scope("app"): _row(3)})
    assert history.answer()["pools"]["app"]["sessions"] == [None, None, 3.0]


def test_sessions_are_those_of_the_moment_and_all_else_is_per_second() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(A, up=10, down=20, times=10)
        proxy.connect_failures(B, "connect_timeout", 5)
        proxy.live("web", 3)
        proxy.now += 5
        proxy.traffic.sample()
        proxy.live("web", 0)
        proxy.now += 5
        proxy.traffic.sample()
        found = proxy.traffic.history()
        expected = {
            "sessions": [0.0, 3.0, 0.0],
            "ended": [0.0, 2.0, 0.0],
            "errors": [0.0, 0.0, 0.0],
            "bytes_up": [0.0, 20.0, 0.0],
            "bytes_down": [0.0, 40.0, 0.0],
            "connect_failures": [0.0, 1.0, 0.0],
        }
        assert found["total"] == found["listeners"]["web"] == expected
        assert found["upstreams"]["app"][A]["bytes_up"] == [0.0, 20.0, 0.0]
        assert found["upstreams"]["app"][B]["bytes_up"] == [0.0, 0.0, 0.0]
        assert len(found["times"]) == 3

    run(test)


def test_of_very_many_upstreams_the_first_thousand_have_a_history_and_quantiles() -> None:
    def test(proxy: CountedProxy) -> None:
        names = [f"10.0.{n >> 8}.{n & 255}:80" for n in range(1500)]
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": names}}})
        proxy.session(names[0], connect=300)
        proxy.session(names[-1], connect=300)
        proxy.now += 5
        proxy.traffic.sample()
        assert list(proxy.traffic.history()["upstreams"]["app"]) == names[:1000]
        upstreams = proxy.traffic.traffic()["upstreams"]["app"]
        assert len(upstreams) == 1500
        assert upstreams[names[0]]["connect_ms"]["count"] == 1
        last = upstreams[names[-1]]
        assert (last["ended"], last["rates"]["ended"]) == (1, 0.2)
        assert last["connect_ms"]["p50"] is None

    run(test, workers=1)
