"""The parsers that are fuzzed: one line for each.

`check(data)` raises where the parser breaks a promise: another exception than its own, an answer
that does not hold, another answer when the bytes come in pieces. `seeds()` are good inputs, from
which the bad ones are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wire import fuzz_client_hello as first
from wire import fuzz_proxy_protocol


@dataclass(frozen=True, slots=True)
class Parser:
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


PARSERS = {
    "proxy_header": Parser(fuzz_proxy_protocol.check, fuzz_proxy_protocol.seeds),
    "client_hello": Parser(first.fuzz_client_hello, first.seeds),
    "protocol": Parser(first.fuzz_protocol, first.seeds),
    "postgres": Parser(first.fuzz_postgres, first.postgres_seeds),
    "http_host": Parser(first.fuzz_http_host, first.seeds),
}
