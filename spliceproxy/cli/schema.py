"""`spliceproxy schema`: the configuration language, for editors."""

from __future__ import annotations

import click


@click.command
def schema() -> None:
    """Print the JSON Schema of the configuration.

    An editor with a YAML language server completes and explains keys with it:

    \b
    spliceproxy schema > spliceproxy.schema.json
    and as the first line of app.yaml:
    # yaml-language-server: $schema=spliceproxy.schema.json
    """
    import json

    from spliceproxy import config

    click.echo(json.dumps(config.json_schema(), indent=2))
