"""A short run of the fuzzer, and that it finds mistakes and says how to meet them again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.hunt import hunt
from fuzz.mutate import Mutator
from fuzz.parsers import PARSERS, Parser

INPUTS = 5_000


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_keeps_its_promises_whatever_it_is_given(name: str, seed: int) -> None:
    found = hunt(PARSERS[name], INPUTS, f"{seed}/{name}")
    print(f"seed {seed}: {found.tried} inputs in {found.seconds:.1f} s")
    assert found.catch is None, f"{found.catch.data!r}\n{found.catch.trace}"
    assert found.tried == INPUTS


def test_the_same_seed_gives_the_same_inputs_and_another_one_gives_others(seed: int) -> None:
    def inputs(text: str) -> list[bytes]:
        mutator = Mutator([b"PROXY UNKNOWN\r\n", b"hello"], text)
        return [mutator.next() for _ in range(200)]

    assert inputs(f"{seed}") == inputs(f"{seed}")
    assert inputs(f"{seed}") != inputs(f"{seed}/other")
    assert len(set(inputs(f"{seed}"))) > 100


def test_a_language_gets_its_words_and_its_lines_stay_lines(seed: int) -> None:
    good = b"one: 1\ntwo: 2\nthree: 3\n"
    mutator = Mutator([good], f"{seed}", [b"word"])
    made = [mutator.next() for _ in range(300)]
    assert sum(b"word" in data for data in made) > 50
    lines = set(good.splitlines())
    moved = [data for data in made if data != good and set(data.splitlines()) <= {*lines, b""}]
    assert len(moved) > 5


def test_a_mistake_is_found_and_made_short(seed: int) -> None:
    def check(data: bytes) -> None:
        if 0x80 in data:
            raise IndexError("what a parser must not raise")

    found = hunt(Parser(check, lambda: [b"a long and harmless beginning"] * 3), 100_000, f"{seed}")
    assert found.catch is not None
    assert found.catch.data == b"\x80"
    assert "what a parser must not raise" in found.catch.trace


def run(*arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_tells_the_seed_and_tries_a_file_again(tmp_path: Path) -> None:
    done = run("--inputs", "300", "--only", "proxy_header", "--seed", "7", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SPLICEPROXY_SEED=7" in done.stdout
    assert "proxy_header: 300 inputs" in done.stdout
    kept = tmp_path / "kept.bin"
    kept.write_bytes(b"PROXY TCP4 \n")
    done = run("--input", str(kept), "--only", "proxy_header", tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (0, "proxy_header: 12 bytes, well\n")
