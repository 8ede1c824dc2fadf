"""`spliceproxy status`: what the running proxy is and does."""

from __future__ import annotations

import json

import click

from spliceproxy.cli.client import Admin, admin_option


@click.command(short_help="Show the running proxy: workers, listeners, pools.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print what the admin API answers, with the `traffic`."
)
@admin_option
def status(as_json: bool, admin: Admin) -> None:
    """Show the running proxy: its workers, listeners, pools and upstreams.

    An upstream is up, down (its health checks fail), ejected (live sessions failed on it) or
    draining (somebody said so); of one that starts slowly the part of its share is told that it
    gets by now. A weight that somebody set stands behind the configured one. A listener that is
    draining lets nobody in. Beside a pool stands how many clients wait in its queue, if any.

    Sessions are those that live at this moment. Bytes to upstreams (↑) and to clients (↓), ends and
    errors are per second, of the last ten seconds; the times of connects are of the last minute:
    the median, and what 99 of 100 stay below (p99).

    Certificates of listeners are shown with the time that is left of them; of a file that cannot
    be used (broken) what was good last is shown to clients.

    On a terminal that is too narrow the columns that say least are left out.
    """
    with admin.connect() as connection:
        answer = connection.ask("GET", "/api/v1/status")
        traffic = connection.ask("GET", "/api/v1/traffic")
    if as_json:
        click.echo(json.dumps({**answer, "traffic": traffic}, indent=2, ensure_ascii=False))
        return
    from spliceproxy.cli.status_tables import status_lines
    from spliceproxy.cli.tables import open_console, room, show

    console = open_console()
    show(console, status_lines(answer, traffic, room(console)))
