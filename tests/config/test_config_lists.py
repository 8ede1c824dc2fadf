"""Addresses that lead to upstreams, files that list them, and the files of a configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spliceproxy.config import Address, ConfigError, load, load_list, parse_address, sources


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("srv:_App._tcp.example.com", Address(srv="_app._tcp.example.com")),
        ("srv:app.service.consul.", Address(srv="app.service.consul.")),
        ("file:/run/app.yaml", Address(file="/run/app.yaml")),
        ("srv:9000", Address(host="srv", port=9000)),  # hosts may have these names
        ("file:9000", Address(host="file", port=9000)),
    ],
)
def test_an_upstream_may_say_where_upstreams_are_found(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text.lower()


def test_a_list_is_what_upstreams_may_be(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("- 10.0.0.1:80\n- {address: '${HOST}:80', weight: 3, tier: 1}\n")
    one, two = load_list(path, {"HOST": "app.test"})
    assert (str(one.address), one.weight, one.tier, one.max_sessions) == ("10.0.0.1:80", 1, 0, None)
    assert (str(two.address), two.weight, two.tier) == ("app.test:80", 3, 1)
    path.write_text("10.0.0.1:80")
    assert [str(each.address) for each in load_list(path)] == ["10.0.0.1:80"]
    path.write_text("[]")
    assert load_list(path) == ()


def test_what_is_wrong_with_a_list_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("- 10.0.0.1:80\n- 10.0.0.2:99999\n- {weight: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load_list(path)
    heads = [line for line in str(caught.value).splitlines() if line.startswith("/")]
    assert heads == [
        f'{path}:2:3: [1]: "10.0.0.2:99999" has no valid port; write a port from 1 to 65535',
        f"{path}:3:3: [2].address: missing; write for example address: 10.0.0.1:9000",
    ]


def test_a_list_is_never_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        load_list(path)


def test_the_files_of_a_configuration_are_the_main_one_and_what_it_includes(tmp_path: Path) -> None:
    main, home = tmp_path / "app.yaml", tmp_path / "conf.d"
    main.write_text(
        "include: [conf.d/*.yaml]\nlisteners: {web: {bind: ':80', pool: app}}\n"
        "pools: {app: {upstreams: 'file:/nosuch'}}\n"
    )
    loaded = load(main, {})
    assert sources(main, loaded) == [main, home / "*.yaml"]
    home.mkdir()
    (home / "b.yaml").touch()
    assert sources(main, loaded) == [main, home / "*.yaml", home / "b.yaml"]
