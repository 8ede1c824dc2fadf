"""The keys of listeners that say who may come in, and how much one may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated

from pydantic import model_validator

from spliceproxy.config import scalars
from spliceproxy.config.networks import NetworkFile, NetworkSource, read_networks
from spliceproxy.config.problems import ConfigError, Path, Problem
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, setting

if TYPE_CHECKING:
    from spliceproxy.config.model import Config

_FORMS = (
    "networks, IP addresses, and `file:` with an absolute path: a list of networks, one in each "
    "line, in which # or ; begins a comment, and which is read again when it changes."
)


class AccessRule(Section):
    """One rule: `allow` or `deny`."""

    allow: Annotated[tuple[scalars.NetworkSource, ...], OneOrMore] = setting(
        (), f"Clients from here may come in: {_FORMS}", example="[10.1.0.0/16, 2001:db8::/32]"
    )
    deny: Annotated[tuple[scalars.NetworkSource, ...], OneOrMore] = setting(
        (),
        "Clients from here are refused, written like `allow`.",
        example="file:/etc/spliceproxy/blocklist.txt",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> AccessRule:
        if len(self.model_fields_set) != 1:
            wrong = "both allow and deny" if self.model_fields_set else "neither allow nor deny"
            right = "write a rule for each, in the order in which they are to be tried"
            if not self.model_fields_set:
                right = "write for example {deny: 192.0.2.0/24}"
            raise ValueError(f"the rule has {wrong}; {right}")
        if not self.sources:
            raise ValueError("the rule names no network; write at least one, such as 192.0.2.0/24")
        return self

    @property
    def denies(self) -> bool:
        return "deny" in self.model_fields_set

    @property
    def sources(self) -> tuple[NetworkSource, ...]:
        """The networks and files that the rule is about."""
        return self.deny if self.denies else self.allow

    def lines(self) -> Iterator[str]:
        """The rule as one line for each of its networks and files."""
        word = "deny" if self.denies else "allow"
        return (f"{word} {_text(source)}" for source in self.sources)


class Bandwidth(Section):
    """How fast one session may be. What goes into a TCP connection is slowed down by the kernel;
    what goes into a UNIX socket is copied in slices."""

    up: scalars.RateOff = setting(
        "off",
        "Bytes per second from the client to the upstream.",
        example="10MiB/s",
    )
    down: scalars.RateOff = setting(
        "off",
        "Bytes per second from the upstream to the client.",
        example="50MiB/s",
    )


def _text(source: NetworkSource) -> str:
    """As people write it: one address without its prefix."""
    if isinstance(source, NetworkFile) or source.num_addresses > 1:
        return str(source)
    return str(source.network_address)


def network_files(config: Config) -> Iterator[tuple[str, Path]]:
    """The files of networks that `config` names, and where it does."""
    for name, listener in config.listeners.items():
        for number, rule in enumerate(listener.access):
            word = "deny" if rule.denies else "allow"
            for source in rule.sources:
                if isinstance(source, NetworkFile):
                    yield source.path, ("listeners", name, "access", number, word)


def check_network_files(config: Config) -> None:
    """Read the files of networks that `config` names. Raises ConfigError with all that is wrong."""
    problems: list[Problem] = []
    for path, where in dict(network_files(config)).items():
        try:
            read_networks(FilePath(path))
        except ConfigError as error:
            problems += (replace(one, path=where) for one in error.problems)
    if problems:
        raise ConfigError(problems)
