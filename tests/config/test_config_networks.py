"""config/networks.py: files of networks, and what is told of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy import config
from spliceproxy.config.networks import RIGHT, parse_network

YAML = """
listeners: {{web: {{bind: ":8080", pool: app, access: [{{allow: 10.0.0.1}}, {{deny: ["{one}"]}}]}}}}
pools: {{app: {{upstreams: 127.0.0.1:9001}}}}
"""


def problems(path: Path) -> list[str]:
    """What `check` says of a configuration that denies what this file lists."""
    checked = config.loads(YAML.format(one=f"file:{path}"), "a.yaml")
    with pytest.raises(config.ConfigError) as caught:
        config.check_network_files(checked)
    return str(caught.value).splitlines()


def test_a_file_lists_networks_and_addresses_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "# one\n192.0.2.0/24\r\n\n  2001:db8::/32 ; a comment\n::ffff:10.0.0.0/104\n192.0.2.7#x"
    )
    _, found = config.read_networks(path)
    assert [str(one) for one in found] == [
        "192.0.2.0/24",
        "2001:db8::/32",
        "10.0.0.0/8",
        "192.0.2.7/32",
    ]


def test_a_list_of_comments_only_holds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# none\n")
    assert config.read_networks(path)[1] == []


def test_every_wrong_line_is_told_with_its_place_and_the_key_that_names_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("10.0.0.0/8\n  10.0.0.5/8 # oops\nexample.com\n")
    key = "listeners.web.access[1].deny"
    assert problems(path) == [
        f'{path}:2:3: {key}: "10.0.0.5/8" has bits behind its prefix; write 10.0.0.0/8',
        "  10.0.0.5/8 # oops",
        "  ^",
        f'{path}:3:1: {key}: "example.com" is no network; {RIGHT}',
        "example.com",
        "^",
    ]


def test_a_file_that_is_empty_missing_or_a_directory_is_wrong(tmp_path: Path) -> None:
    key = "listeners.web.access[1].deny"
    empty = tmp_path / "empty"
    empty.write_text("\n\n")
    assert problems(empty) == [
        f"{empty}: {key}: the file is empty; write networks into it, or a line # none"
    ]
    assert problems(tmp_path / "none") == [
        f"{tmp_path / 'none'}: {key}: no such file; check its name and directory"
    ]
    assert problems(tmp_path) == [f"{tmp_path}: {key}: is a directory; name a file in it"]


@given(st.text(max_size=30))
def test_any_text_is_a_network_or_is_told_why_not(text: str) -> None:
    network, told = None, ""
    try:
        network = parse_network(text)
    except ValueError as error:
        told = str(error)
    assert "; " in told or (network is not None and parse_network(str(network)) == network)
