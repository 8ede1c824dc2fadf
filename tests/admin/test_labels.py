"""Which upstreams metrics tell of by name, and that none changes its name."""

from __future__ import annotations

from spliceproxy.admin.labels import OTHERS, UpstreamLabels

A, B, C, D, E = (("app", name) for name in "abcde")


def _told(labels: UpstreamLabels, *upstreams: tuple[str, str]) -> list[str]:
    return [labels(*key) for key in upstreams]


def test_those_that_are_configured_first_have_names() -> None:
    labels = UpstreamLabels(most=2)
    labels.follow([A, B, C, D], [])
    assert _told(labels, A, B, C, D) == ["a", "b", OTHERS, OTHERS]


def test_who_was_among_the_others_stays_there_and_a_newcomer_takes_a_name_that_is_free() -> None:
    labels = UpstreamLabels(most=2)
    labels.follow([A, B, C], [])
    labels.follow([B, C, D], [A, B, C])
    assert _told(labels, A, B, C, D) == ["a", "b", OTHERS, "d"]


def test_who_left_is_forgotten_when_nothing_of_it_is_counted_any_more() -> None:
    labels = UpstreamLabels(most=1)
    labels.follow([A, B], [])
    labels.follow([], [A, B])
    assert _told(labels, A, B) == ["a", OTHERS]
    labels.follow([], [])
    labels.follow([B, A], [])
    assert _told(labels, A, B) == [OTHERS, "b"]


def test_without_labels_nobody_has_a_name() -> None:
    labels = UpstreamLabels(wanted=False)
    labels.follow([A], [])
    assert _told(labels, A, B) == ["", ""]


def test_where_there_is_no_upstream_there_is_no_name() -> None:
    assert UpstreamLabels()("app", "") == ""
