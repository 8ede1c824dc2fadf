"""The one gate for configuration: YAML in, a frozen and typed model out, or all that is wrong.

`load`, `loads` and `load_list` are the ways in. Beyond them nothing is raw: names are checked,
units are converted, variables are expanded and inheritance is resolved. Nothing here touches the
network.
"""

from __future__ import annotations

from spliceproxy.config.access import AccessRule, Bandwidth, check_network_files, network_files
from spliceproxy.config.address import Address, parse_address, parse_bind
from spliceproxy.config.admin import Admin, Metrics, Tokens
from spliceproxy.config.diff import difference, keep_what_needs_a_restart, needs_restart
from spliceproxy.config.health import Health, PoolHealth
from spliceproxy.config.intake import Route
from spliceproxy.config.limits import ClientLimits, Limits, RateLimit
from spliceproxy.config.lists import load_list
from spliceproxy.config.loader import load, loads, sources
from spliceproxy.config.markdown import reference
from spliceproxy.config.model import (
    Config,
    Dns,
    Listener,
    ListenerLog,
    Log,
    Relay,
    SessionLog,
    Timeouts,
)
from spliceproxy.config.networks import IpNetwork, NetworkFile, networks_in, read_networks
from spliceproxy.config.pool import Eject, Pool, PoolTimeouts, Queue, Upstream
from spliceproxy.config.problems import ConfigError, Problem, Source
from spliceproxy.config.schema import json_schema
from spliceproxy.config.tcp import Buffers, Keepalive, ListenerTcp, PoolTcp, Tcp
from spliceproxy.config.tls import CertificateFiles, ListenerTls, PoolTls
from spliceproxy.config.units import size_text, time_text
from spliceproxy.config.words import in_words

__all__ = [
    "AccessRule",
    "Address",
    "Admin",
    "Bandwidth",
    "Buffers",
    "CertificateFiles",
    "ClientLimits",
    "Config",
    "ConfigError",
    "Dns",
    "Eject",
    "Health",
    "IpNetwork",
    "Keepalive",
    "Limits",
    "Listener",
    "ListenerLog",
    "ListenerTcp",
    "ListenerTls",
    "Log",
    "Metrics",
    "NetworkFile",
    "Pool",
    "PoolHealth",
    "PoolTcp",
    "PoolTimeouts",
    "PoolTls",
    "Problem",
    "Queue",
    "RateLimit",
    "Relay",
    "Route",
    "SessionLog",
    "Source",
    "Tcp",
    "Timeouts",
    "Tokens",
    "Upstream",
    "check_network_files",
    "difference",
    "in_words",
    "json_schema",
    "keep_what_needs_a_restart",
    "load",
    "load_list",
    "loads",
    "needs_restart",
    "network_files",
    "networks_in",
    "parse_address",
    "parse_bind",
    "read_networks",
    "reference",
    "size_text",
    "sources",
    "time_text",
]
