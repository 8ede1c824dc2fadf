"""The command group, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from spliceproxy import __version__
from spliceproxy.cli.check import check
from spliceproxy.cli.completion import VARIABLE, completion, prepare
from spliceproxy.cli.dashboard import dashboard
from spliceproxy.cli.demo import demo
from spliceproxy.cli.drain import drain, undrain
from spliceproxy.cli.explain import explain
from spliceproxy.cli.forward import forward
from spliceproxy.cli.log_level import log_level
from spliceproxy.cli.reload import reload
from spliceproxy.cli.run import run
from spliceproxy.cli.schema import schema
from spliceproxy.cli.sessions import sessions
from spliceproxy.cli.status import status
from spliceproxy.cli.tail import tail
from spliceproxy.cli.top import top
from spliceproxy.cli.upgrade import upgrade
from spliceproxy.cli.weight import weight
from spliceproxy.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, SpliceproxyError

EXIT_INTERRUPTED = 130
"""What a shell shows for a program that Ctrl-C ended."""


class OrderedGroup(click.Group):
    """A group that lists its commands as they were added, the most used first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="spliceproxy", message="%(prog)s %(version)s")
def spliceproxy() -> None:
    """A TCP reverse proxy and load balancer for Linux.

    It accepts clients, picks an upstream for each, and lets the kernel move the bytes between
    them with splice(2).

    \b
    New here?        spliceproxy demo
    In one line:     spliceproxy forward :8080 10.0.0.1:80 10.0.0.2:80
    From a file:     spliceproxy run app.yaml
    While it runs:   spliceproxy status

    Exit codes: 0 all went well, 1 it failed, 2 the command line is wrong, 78 the configuration
    is wrong.
    """


for _command in (
    run,
    check,
    forward,
    status,
    top,
    sessions,
    tail,
    explain,
    dashboard,
    reload,
    upgrade,
    drain,
    undrain,
    weight,
    log_level,
    demo,
    schema,
    completion,
):
    spliceproxy.add_command(_command)


def run_command(arguments: Sequence[str]) -> int:
    """Run the command of `arguments`, tell its error on standard error; returns the exit code."""
    if VARIABLE in os.environ:
        prepare()
    try:
        code = spliceproxy.main(arguments, prog_name="spliceproxy", standalone_mode=False)
        if sys.stdout is not None:  # None: it was closed before the program began
            sys.stdout.flush()
        return int(code or EXIT_OK)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. What is still buffered must not be written at
        # exit, or the interpreter would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        _tell_predecessor(_usage_text(error))
        return _fail(_usage_text(error), error.exit_code)
    except SpliceproxyError as error:
        _tell_predecessor(str(error))
        if error.exit_code == EXIT_CONFIG:
            click.echo(str(error), err=True)  # each problem begins with file:line:column
            return EXIT_CONFIG
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(_os_error_text(error), EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        click.echo(f"spliceproxy: {line}", err=True)
    return code


def _tell_predecessor(text: str) -> None:
    """In an upgrade the process that is to be replaced hears why it is not."""
    if "SPLICEPROXY_HANDOVER" in os.environ:
        from spliceproxy.control.handover import tell_predecessor

        tell_predecessor(text)


def _usage_text(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return text
    return f"{text}; see {context.command_path} --help"


def _os_error_text(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    named = isinstance(error.filename, str | bytes)  # an fd's number would say nothing
    return f"{os.fsdecode(error.filename)}: {reason}" if named else reason
