"""`spliceproxy demo`: the newcomer's first minute, told in the terminal.

`story` is what happens, `cast` the processes in it, `traffic` the clients, `upstream` the program
of one upstream, `screen` what is shown, `ending` how Ctrl-C is heard.
"""

from __future__ import annotations

import click


@click.command
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(min=1),
    help="End after N seconds.  [default: Ctrl-C ends it]",
)
def demo(seconds: float | None) -> int:
    """See it work: three upstreams, the proxy, some traffic.

    Needs no rights, no file and no free port in particular, and listens on 127.0.0.1 only. After
    some seconds one upstream stops, and later it comes back. Ctrl-C ends the demo and leaves
    nothing behind.
    """
    from spliceproxy.cli.demo.story import tell

    return tell(seconds)
