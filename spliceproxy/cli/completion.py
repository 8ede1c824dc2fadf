"""`spliceproxy completion SHELL`: what makes Tab work in a shell."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

PROGRAM = "spliceproxy"
VARIABLE = "_SPLICEPROXY_COMPLETE"
"""Set by the scripts when they ask what there is to offer."""
SHELLS = ("bash", "zsh", "fish")

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
            %(complete_var)s=bash_complete "$1"); do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class ColonBash(BashComplete):
    """Bash, which takes a colon for the end of a word, and addresses have colons.

    So words are taken from the line itself, and of what is offered the part is left out that bash
    has in the words before (COMP_WORDBREAKS, bash(1)).
    """

    source_template = _BASH

    def source(self) -> str:
        return ShellComplete.source(self)  # without starting bash to ask for its version

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)
        self._begun = "" if line[-1:].isspace() else words.pop()
        return words[1:], self._begun

    def format_completion(self, item: CompletionItem) -> str:
        begun = self._begun
        if begun.startswith("-"):  # --option=value, of which click offers the value
            begun = begun.partition("=")[2]
        known = begun.rfind(":") + 1 if ":" in os.environ.get("COMP_WORDBREAKS", "") else 0
        return f"{item.type},{item.value[known:]}"


@click.command(short_help="Print the script for completion by Tab.")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that has SHELL (bash, zsh or fish) complete commands, options, and names of
    the running proxy: listeners, pools, upstreams and what can be drained.

    \b
    bash, in ~/.bashrc:    eval "$(spliceproxy completion bash)"
    zsh, in ~/.zshrc:      eval "$(spliceproxy completion zsh)"
    fish:                  spliceproxy completion fish \\
                             > ~/.config/fish/completions/spliceproxy.fish
    """
    prepare()
    from spliceproxy.cli.app import spliceproxy

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(spliceproxy, {}, PROGRAM, VARIABLE).source(), nl=False)


def prepare() -> None:
    """Have click complete by these rules."""
    add_completion_class(ColonBash, "bash")
