"""OpenSSL as an oracle: it must hear the same name from the same bytes."""

from __future__ import annotations

import itertools
import random
import re
import ssl
from collections import Counter
from contextlib import suppress

import pytest
from wire.hello_builder import payload, records
from wire.test_wire_fuzz import mutants
from wire.test_wire_recorded import HELLOS, recorded

from spliceproxy.wire.client_hello import ClientHello, ClientHelloError, parse_client_hello
from spliceproxy.wire.host_name import read_address

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")

NOT_ASKED = "not asked"
ROUNDS = 3000


def heard_by_openssl(data: bytes) -> str | None:
    """The server_name that OpenSSL reads; NOT_ASKED where it gives up before that."""
    heard: list[str | None] = []

    def callback(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        heard.append(name)
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.sni_callback = callback
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with suppress(ssl.SSLError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return heard[0] if heard else NOT_ASKED


def heard_here(data: bytes) -> str | None:
    """Our name for these bytes; NOT_ASKED where they are no hello."""
    found = parse_client_hello(data)
    return found.sni if isinstance(found, ClientHello) else NOT_ASKED


def in_our_form(name: str | None) -> str | None:
    return None if name is None or read_address(name.encode()) else name.lower().removesuffix(".")


@pytest.mark.parametrize("size", [1, 3, 50, 20_000])
@pytest.mark.parametrize("name", HELLOS)
def test_openssl_hears_the_same_name_in_real_hellos(name: str, size: int) -> None:
    data = records(payload(recorded(name)), itertools.repeat(size))
    assert in_our_form(heard_by_openssl(data)) == heard_here(data) == HELLOS[name].sni
    assert heard_by_openssl(data[:-1]) == heard_here(data[:-1]) == NOT_ASKED


STRICTER_HERE = re.compile("server_name is not a host|a ClientHello of version|extension .* twice")
"""OpenSSL takes any bytes as a name, looks at no legacy version beside supported_versions, and does
not mind an extension twice that it does not know."""


def test_openssl_hears_no_other_name_in_mutated_hellos(seed: int) -> None:
    seen: Counter[str] = Counter()
    for data in mutants(random.Random(seed), ROUNDS):
        ours: str | None = NOT_ASKED
        try:
            ours = heard_here(data)
        except ClientHelloError as error:
            seen["refused"] += 1
            if STRICTER_HERE.match(str(error)):
                continue
        theirs = heard_by_openssl(data)
        if theirs == NOT_ASKED:  # it refuses more, for what does not concern a route
            continue
        assert in_our_form(theirs) == ours, (seed, theirs, ours, data)
        seen["same"] += 1
    print(f"seed {seed}: {seen}")
    assert seen["same"] > ROUNDS / 10
    assert seen["refused"] > ROUNDS / 10
