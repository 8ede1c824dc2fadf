"""`python -m fuzz`: the command behind `make fuzz`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import click

from fuzz.hunt import Catch, hunt
from fuzz.parsers import PARSERS

INPUTS = 1_000_000
KEEP = Path("build/fuzz")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--inputs",
    type=click.IntRange(1),
    default=INPUTS,
    envvar="SPLICEPROXY_FUZZ",
    show_default=True,
    show_envvar=True,
    help="How many to try with each parser.",
)
@click.option(
    "--seed", envvar="SPLICEPROXY_SEED", show_envvar=True, help="Of an earlier run, to repeat it."
)
@click.option("--only", multiple=True, type=click.Choice(list(PARSERS)), help="Only these parsers.")
@click.option(
    "--input",
    "again",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Try this file alone, one that an earlier run kept.",
)
def main(inputs: int, seed: str | None, only: tuple[str, ...], again: Path | None) -> None:
    """Try parsers with inputs made from good ones. Exit code 1: one broke a promise."""
    names = only or tuple(PARSERS)
    if again is not None:
        data = again.read_bytes()
        for name in names:
            PARSERS[name].check(data)
            click.echo(f"{name}: {len(data)} bytes, well")
        return
    seed = seed or str(random.SystemRandom().randrange(2**32))
    click.echo(f"seed: {seed} (to repeat this run: SPLICEPROXY_SEED={seed})")
    failed = False
    for name in names:
        found = hunt(PARSERS[name], inputs, f"{seed}/{name}")
        rate = found.tried / found.seconds
        click.echo(f"{name}: {found.tried:,} inputs in {found.seconds:.0f} s, {rate:,.0f} a second")
        if found.catch is not None:
            failed = True
            _tell(name, found.catch)
    sys.exit(failed)


def _tell(name: str, catch: Catch) -> None:
    KEEP.mkdir(parents=True, exist_ok=True)
    path = KEEP / f"{name}.bin"
    path.write_bytes(catch.data)
    click.echo(catch.trace, err=True)
    click.echo(f"{name} breaks a promise with {len(catch.data)} bytes: {catch.data!r}", err=True)
    click.echo(f"to try them again: make fuzz ARGS='--only {name} --input {path}'", err=True)


if __name__ == "__main__":
    main()
