"""`spliceproxy check FILE`: is this configuration right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from spliceproxy.config import Config


@click.command
@click.argument("file", type=click.Path(path_type=Path, readable=False))
def check(file: Path) -> None:
    """Check the configuration FILE, and say what is wrong with it.

    Opens no socket, asks no name server and needs no rights: it can run anywhere, before the
    file is put where it is used. All problems are shown at once, each with file, line and column.
    Certificates, keys and tokens are read and tried; a certificate that ends soon is a warning.
    """
    from spliceproxy import config

    checked = config.load(file)
    config.check_network_files(checked)
    for warning in _check_tokens(checked):
        click.echo(f"warning: {warning}", err=True)
    if checked.speaks_tls:
        from spliceproxy.control.tls import check_certificates

        for warning in check_certificates(checked):
            click.echo(f"warning: {warning}", err=True)
    listeners = _count(len(checked.listeners), "listener")
    pools = _count(len(checked.pools), "pool")
    upstreams = _count(sum(len(pool.upstreams) for pool in checked.pools.values()), "upstream")
    click.echo(f"{file}: OK: {listeners}, {pools}, {upstreams}")


def _check_tokens(checked: Config) -> list[str]:
    from spliceproxy.admin import TokenFiles

    return TokenFiles(checked).warnings()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
