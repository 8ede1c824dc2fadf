"""`spliceproxy explain`: which rule takes a client, and where to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from spliceproxy.cli import suggestions
from spliceproxy.cli.client import Admin, admin_option, ask, with_query


@click.command(short_help="Tell which rule, pool and upstream a client would get, and why.")
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--listener",
    metavar="NAME",
    required=True,
    help="Where the client comes in.",
    shell_complete=suggestions.listeners,
)
@click.option("--source", metavar="IP", help="Its address; without: a UNIX socket.")
@click.option("--sni", metavar="NAME", help="The name that it asks for by TLS.")
@click.option("--alpn", metavar="NAME", multiple=True, help="A protocol that it offers by TLS.")
@click.option("--host", metavar="NAME", help="The host of its HTTP/1 request.")
@click.option(
    "--protocol",
    metavar="NAME",
    help="What it speaks, where its names do not tell: tls, http, ssh, postgres or unknown.",
)
@click.option(
    "--peer",
    metavar="IP",
    help="The proxy in front, whose PROXY header names --source.",
)
@click.option("--live", is_flag=True, help="Ask the running proxy instead of a file.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@admin_option
def explain(
    file: Path | None, listener: str, live: bool, as_json: bool, admin: Admin, **client: Any
) -> None:
    """Tell what becomes of a client: which access rule and which route it meets, whether its TLS
    ends here, which pool it is sent to, and which upstreams it may get.

    FILE is the configuration, found as `run` finds it; nobody is asked, no name is looked up, and
    all upstreams are taken for well and idle. With --live the running proxy tells it of what is in
    force: with the states, the weights and the live sessions of this moment.

    Where a pool hashes, the very upstream is told; elsewhere whose turn it may be, with the share
    of clients that each of them gets.

    \b
    Examples:
      spliceproxy explain app.yaml --listener web --sni a.example.com --source 10.1.2.3
      spliceproxy explain --live --listener web --protocol ssh --source 10.1.2.3
    """
    if live:
        if file is not None:
            raise click.UsageError("--live asks the running proxy; leave FILE out")
        answer = _ask(admin, {"listener": listener, **client})
    else:
        from spliceproxy.admin.explain import explain as explain_scene
        from spliceproxy.admin.questions import make_client
        from spliceproxy.cli.explain_file import scene_of
        from spliceproxy.cli.run import default_file

        asked = make_client(**client)
        answer = explain_scene(scene_of(file or default_file()), listener, asked)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    from spliceproxy.cli.explain_view import explained
    from spliceproxy.cli.tables import open_console, room, show

    console = open_console()
    show(console, explained(answer, room(console)))


def _ask(admin: Admin, question: Mapping[str, Any]) -> dict[str, Any]:
    """The running proxy's answer; of what is asked several times each is a parameter."""
    parameters = [
        (name, one)
        for name, value in question.items()
        for one in (value if isinstance(value, tuple) else (value,))
    ]
    return ask(admin, "GET", with_query("/api/v1/explain", parameters))
