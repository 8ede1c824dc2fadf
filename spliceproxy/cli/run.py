"""`spliceproxy run [FILE]`: the proxy itself, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from spliceproxy.errors import UsageError

DEFAULT_FILES = (Path("spliceproxy.yaml"), Path("/etc/spliceproxy/spliceproxy.yaml"))
"""Where the configuration is looked for when no file is named, in this order."""


@click.command
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--watch", is_flag=True, help="Reload whenever FILE, or a file that it includes, changes."
)
def run(file: Path | None, watch: bool) -> int:
    """Run the proxy in the foreground.

    FILE is the configuration; without it, ./spliceproxy.yaml is used, or else
    /etc/spliceproxy/spliceproxy.yaml.

    Session records go to standard output, one line for each session that ended; the program's
    log goes to standard error.

    \b
    SIGTERM          accept nobody new, let sessions end (up to timeouts.drain), exit
    SIGTERM again    end at once
    SIGINT (Ctrl-C)  end at once
    SIGHUP           read the configuration again; if it is wrong, nothing changes
    SIGUSR1          open the file of session records anew, after it was rotated
    SIGUSR2          replace this process by a new one of the program, as `upgrade` does
    """
    from spliceproxy import config, control
    from spliceproxy.admin import Admin

    path = file or default_file()
    return control.run(
        config.load(path),
        load=lambda: config.load(path),
        sources=lambda now: config.sources(path, now),
        watch=watch,
        admin=Admin,
    )


def default_file() -> Path:
    """The first of DEFAULT_FILES that exists. Raises UsageError when none does."""
    for path in DEFAULT_FILES:
        if path.exists():
            return path
    raise UsageError(
        f"run: no FILE was named, and neither ./{DEFAULT_FILES[0]} nor {DEFAULT_FILES[1]} exists"
    )
