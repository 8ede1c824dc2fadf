"""`spliceproxy top`: the running proxy, live in the terminal.

`state` is what a person chose, and what each key changes; `rows` and `fields` make tables of the
API's answers, `screen` draws all of it as lines; `feed` asks the proxy in a thread of its own,
`terminal` has the terminal and gives it back, and `live` lets them meet. Nothing but `feed` and
`terminal` has a socket or a file descriptor.
"""

from __future__ import annotations

import click

from spliceproxy.cli.client import Admin, admin_option

VIEWS = ("listeners", "pools", "upstreams", "sessions")


@click.command(short_help="Watch the running proxy, live in the terminal.")
@click.option(
    "--view",
    type=click.Choice(VIEWS),
    default="upstreams",
    show_default=True,
    help="What is shown first.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    help="Time between two looks.",
)
@admin_option
def top(view: str, interval: float, admin: Admin) -> None:
    """Watch the running proxy: totals, workers, and a table of its listeners, pools, upstreams or
    sessions, with what moves through each of them.

    Rates are of the last ten seconds (of a session: of the last one), times of connects of the
    last minute; the lines of blocks are the throughput of the last ten minutes, five seconds each.

    \b
    l p u s  listeners, pools, upstreams, sessions
    < >      sort by the column to the left, to the right; r turns the order
    /        show only what has this text in a name; in sessions also pool=app,
             client=10.0.0.0/8 and so on, as `spliceproxy sessions` has them
    arrows   scroll, also PgUp, PgDn, Home and End
    space    stand still, and go on
    ? q      help, quit

    Where standard output is no terminal it prints what it sees once, and ends.
    """
    from spliceproxy.cli.top.live import run

    run(admin, view, interval)
