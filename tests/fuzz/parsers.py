"""The parsers that are fuzzed: one line for each.

`check(data)` raises where the parser breaks a promise: another exception than its own, an answer
that does not hold, another answer when the bytes come in pieces. `seeds()` are good inputs, from
which the bad ones are made; `words()` those of a language that is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config import fuzz_loader as config
from wire import fuzz_client_hello as first
from wire import fuzz_proxy_protocol


@dataclass(frozen=True, slots=True)
class Parser:
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: Callable[[], Sequence[bytes]] = list


PARSERS = {
    "proxy_header": Parser(fuzz_proxy_protocol.check, fuzz_proxy_protocol.seeds),
    "client_hello": Parser(first.fuzz_client_hello, first.seeds),
    "protocol": Parser(first.fuzz_protocol, first.seeds),
    "postgres": Parser(first.fuzz_postgres, first.postgres_seeds),
    "http_host": Parser(first.fuzz_http_host, first.seeds),
    "configuration": Parser(config.check_configuration, config.configurations, config.words),
    "upstream_list": Parser(config.check_upstreams, config.upstream_lists, config.words),
    "network_list": Parser(config.check_networks, config.network_lists),
}
