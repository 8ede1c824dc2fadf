"""`spliceproxy forward BIND UPSTREAM…`: a proxy without a file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from spliceproxy.errors import UsageError


@click.command
@click.argument("bind")
@click.argument("upstreams", metavar="UPSTREAM...", nargs=-1, required=True)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many processes move bytes.  [default: one per CPU]",
)
@click.option("--print", "print_only", is_flag=True, help="Print the configuration; run nothing.")
def forward(bind: str, upstreams: Sequence[str], workers: int | None, print_only: bool) -> int:
    """Forward BIND to one or more upstreams, without a file.

    Clients that connect to BIND are shared out to the upstreams in turn; one that does not
    answer is passed over. Addresses are host:port, [v6]:port, unix:/path or unix:@abstract;
    BIND may also be :port, which is every address of this machine.

    \b
    Examples:
      spliceproxy forward :8080 10.0.0.1:80 10.0.0.2:80
      spliceproxy forward 127.0.0.1:6379 unix:/run/redis/redis.sock
      spliceproxy forward :8080 10.0.0.1:80 --print > app.yaml
    """
    from spliceproxy import config

    text = forward_yaml(bind, upstreams, workers)
    try:
        checked = config.loads(text, "forward", env={})
    except config.ConfigError as error:
        # Nobody wrote that YAML: what is wrong is an argument.
        texts = [f"forward: {problem.text}" for problem in error.problems]
        raise UsageError("\n".join(texts)) from None
    if print_only:
        click.echo(text, nl=False)
        return 0
    from spliceproxy import control
    from spliceproxy.admin import Admin

    return control.run(checked, admin=Admin)


def forward_yaml(bind: str, upstreams: Sequence[str], workers: int | None = None) -> str:
    """The configuration that `forward` runs, as YAML."""
    lines = [
        "listeners:",
        f"  forward: {{bind: {_quoted(bind)}, pool: forward}}",
        "pools:",
        "  forward:",
        f"    upstreams: [{', '.join(_quoted(upstream) for upstream in upstreams)}]",
    ]
    if workers is not None:
        lines.insert(0, f"workers: {workers}")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """`value` as a YAML scalar that means exactly these characters: JSON's strings are YAML's.

    A dollar is doubled, because the shell has expanded what there was to expand.
    """
    return json.dumps(value.replace("$", "$$"), ensure_ascii=False)
