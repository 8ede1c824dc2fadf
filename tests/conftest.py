"""What holds for every test: one seed for all that is random, no silent skips in CI, and that some
have the machine to themselves."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator

import hypothesis
import pytest
from harness.alone import Room

NO_SKIP = os.environ.get("SPLICEPROXY_NO_SKIP", "") not in ("", "0")
SEED = int(os.environ.get("SPLICEPROXY_SEED") or random.SystemRandom().randrange(2**32))
os.environ["SPLICEPROXY_SEED"] = str(SEED)  # the processes that share the tests have the same

ROOM = Room()

# A shell that starts something in the background has it ignore Ctrl-C, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The machines that run this are slow and shared: time says nothing about a wrong result.
hypothesis.settings.register_profile("spliceproxy", deadline=None, print_blob=True)
hypothesis.settings.load_profile("spliceproxy")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give hypothesis the same seed, unless one was asked for."""
    if config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    return f"seed: {SEED} (to repeat this run: SPLICEPROXY_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    """The number to begin every random sequence of a test with; printed on top of the run."""
    return SEED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """From the making of its fixtures to their end."""
    with ROOM.shared() if item.get_closest_marker("alone") is None else ROOM.alone():
        return (yield)


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nSPLICEPROXY_NO_SKIP is set: a test that is skipped fails"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report
