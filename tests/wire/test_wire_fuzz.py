"""Mutated bytes of real clients: an answer or a typed error, and the same for each split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import wire.fuzz_client_hello as fuzz
from wire.hello_builder import body, extension, message, random_sizes, record, records, server_name

from spliceproxy.wire import client_hello
from spliceproxy.wire.client_hello import ClientHelloReader
from spliceproxy.wire.need import Need

ROUNDS = 4000
TELLING = [0, 1, 2, 3, 4, 8, 16, 22, 32, 127, 128, 255, *b" :\r\n/.GHS-"]


def mutants(rng: random.Random, rounds: int) -> Iterator[bytes]:
    """Recorded bytes with some changed, cut, doubled, or put into other records."""
    seeds = fuzz.seeds()
    assert len(seeds) > 15
    for _ in range(rounds):
        data = bytearray(rng.choice(seeds))
        if data[0] == 22 and rng.random() < 0.3:
            data = bytearray(records(bytes(data[5:]), random_sizes(rng, rng.choice([3, 90, 900]))))
        for _ in range(rng.choice([0, 1, 1, 2, 8])):
            at = int(len(data) * rng.random() ** rng.choice([1, 3]))
            change = rng.randrange(5)
            if change == 0:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 9)]
            elif change == 1:
                del data[at : at + rng.choice([1, 1, 2, 40])]
            elif change == 2 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif at < len(data):
                data[at] = rng.choice(TELLING)
            if not data:
                break
        yield bytes(data)


@pytest.mark.parametrize("check", [fuzz.fuzz_client_hello, fuzz.fuzz_protocol, fuzz.fuzz_http_host])
def test_mutated_bytes_meet_nothing_unexpected(check: Callable[[bytes], None], seed: int) -> None:
    for data in mutants(random.Random(seed), ROUNDS):
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error


def test_mutants_are_hellos_errors_and_other_things_alike(seed: int) -> None:
    found = [
        type(fuzz._hello_outcome(client_hello.parse_client_hello, data)).__name__
        for data in mutants(random.Random(seed), 1000)
    ]
    shares = {kind: found.count(kind) / len(found) for kind in set(found)}
    print(f"seed {seed}: {shares}")
    assert shares.keys() == {"ClientHello", "Need", "NoneType", "str"}
    assert min(shares.values()) > 0.03


HELLO = record(message(body(server_name(b"a.example"), extension(7, bytes(300)))))


def decides_too_early(self: ClientHelloReader, data: bytes) -> object:
    return READ(self, data) if len(data) != 100 else None


def needs_too_much(self: ClientHelloReader, data: bytes) -> object:
    found = READ(self, data)
    return Need(found.total + 1) if isinstance(found, Need) else found


def needs_what_it_has(self: ClientHelloReader, data: bytes) -> object:
    found = READ(self, data)
    return Need(len(data)) if isinstance(found, Need) else found


def breaks(self: ClientHelloReader, data: bytes) -> object:
    return READ(self, data) if len(data) < 200 else data[10_000]


READ = ClientHelloReader.read


@pytest.mark.parametrize("mistake", [needs_too_much, needs_what_it_has, breaks, decides_too_early])
def test_the_fuzzer_notices_a_parser_with_a_mistake(
    mistake: Callable[[ClientHelloReader, bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    inputs = [HELLO[: rng.randrange(len(HELLO))] for _ in range(50)] + [HELLO, HELLO[:100]]
    inputs += [HELLO + bytes(n) for n in range(300)]

    def check_all() -> None:
        for data in inputs:
            fuzz.fuzz_client_hello(data)

    check_all()
    monkeypatch.setattr(ClientHelloReader, "read", mistake)
    with pytest.raises((AssertionError, IndexError)):
        check_all()
