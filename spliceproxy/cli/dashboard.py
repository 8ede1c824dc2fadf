"""`spliceproxy dashboard`: where it is, with the token that lets its reader give orders."""

from __future__ import annotations

import click

from spliceproxy.cli.client import Admin, DoorError, admin_option, ask

_REMEDY = (
    "the dashboard needs a TCP address, and none is configured; write for example "
    "admin: {bind: [unix:/run/spliceproxy/admin.sock, 127.0.0.1:9900]}"
)


@click.command(short_help="Print a link to the dashboard.")
@click.option("--open", "opens", is_flag=True, help="Open it in a browser.")
@admin_option
def dashboard(opens: bool, admin: Admin) -> None:
    """Print a link to the dashboard that carries the token for orders.

    The token is told on the UNIX socket alone, to those who may open it. It stands in the link
    behind a #, which no browser sends to anybody. Whoever has the link may give orders: without a
    token of your own (`admin.tokens.write`) it is valid until the proxy ends.
    """
    answer = ask(admin, "GET", "/api/v1/token")
    if not answer["urls"]:
        raise DoorError(_REMEDY)
    links = [f"{url}#token={answer['write']}" for url in answer["urls"]]
    for link in links:
        click.echo(link)
    if opens:
        import webbrowser

        if not webbrowser.open(links[0]):
            raise DoorError("there is no browser here; open the link where there is one")
