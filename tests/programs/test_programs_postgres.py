"""psql and pgbench reach real PostgreSQL servers by the name that they ask for in TLS."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.proxy import Proxy, running_proxy
from postgres_server import Cluster, cluster, need_postgres, ticket
from real_programs import run

ONE, TWO, OFF = "one.example.com", "two.example.com", "off.example.com"
CONFIG = """
listeners:
  db:
    bind: 127.0.0.1:0
    routes:
      - {{protocol: postgres, sni: {one_name}, pool: one}}
      - {{protocol: postgres, sni: {two_name}, tls: passthrough, pool: two}}
      - {{protocol: postgres, sni: {off_name}, pool: "off"}}
    pool: one
pools:
  one: {{upstreams: {one}}}
  two: {{upstreams: {two}, replay: 16KiB}}
  "off": {{upstreams: {off}}}
"""
ENDING = """
listeners:
  db:
    bind: 127.0.0.1:0
    tls: {{certificates: [{certificate}]}}
    routes:
      - {{protocol: postgres, sni: {two_name}, tls: passthrough, pool: two}}
      - {{protocol: postgres, pool: "off"}}
    pool: two
pools:
  two: {{upstreams: {two}}}
  "off": {{upstreams: {off}}}
"""
WHO = "select current_setting('cluster_name'), ssl from pg_stat_ssl where pid = pg_backend_pid()"


@dataclass(frozen=True)
class Site:
    """Two servers with TLS, one without, and what verifies their certificates."""

    one: str
    two: str
    off: str
    ca: Path
    certificate: Path
    """Of the first name: the chain and its key."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    authority = trustme.CA()
    with cluster() as made, ExitStack() as stack:
        ca = made.directory / "ca.pem"
        authority.cert_pem.write_to_path(ca)

        def start(made: Cluster, name: str, tls: bool) -> str:
            certificate = authority.issue_cert(name) if tls else None
            return stack.enter_context(made.server(name.partition(".")[0], certificate))

        addresses = [start(made, name, name != OFF) for name in (ONE, TWO, OFF)]
        certificate = made.directory / "one.pem"
        authority.issue_cert(ONE).private_key_and_cert_chain_pem.write_to_path(certificate)
        yield Site(*addresses, ca, certificate)


@contextmanager
def proxy_before(site: Site) -> Iterator[Proxy]:
    text = CONFIG.format(
        one_name=ONE, two_name=TWO, off_name=OFF, one=site.one, two=site.two, off=site.off
    )
    with running_proxy(text) as proxy:
        yield proxy


def target(proxy: Proxy | str, name: str, **options: object) -> str:
    """A libpq connection string: where to connect, and whom to ask for."""
    port = proxy.port("db") if isinstance(proxy, Proxy) else proxy.rpartition(":")[2]
    keys = {"host": name, "hostaddr": "127.0.0.1", "port": port, "user": "me"}
    keys |= {"dbname": "postgres", **options}
    return " ".join(f"{key}={value}" for key, value in keys.items())


def psql(where: str, sql: str, **more: Any) -> str:
    words = [need_postgres("psql"), "-XAt", "-v", "ON_ERROR_STOP=1", where, "-c", sql]
    return run(words, **more).strip()


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_psql_reaches_each_name_over_tls_that_ends_at_the_server(
    site: Site, mode: str, version: str
) -> None:
    tls = {"sslmode": mode, "sslrootcert": site.ca, "ssl_max_protocol_version": version}
    with proxy_before(site) as proxy:
        for name in (ONE, TWO):
            assert psql(target(proxy, name, **tls), WHO) == f"{name.partition('.')[0]}|t"
        records = proxy.wait_records(2)
    assert {(one["route"], one["sni"], one["pool"]) for one in records} == {
        ("routes[0]", ONE, "one"),
        ("routes[1]", TWO, "two"),
    }
    assert {one["tls_error"] for one in records} == {None}
    # A server closes without the close_notify of its client, which may come as a reset.
    assert {one["why"] for one in records} <= {"done", "client_reset", "upstream_reset"}


def test_a_certificate_of_another_name_is_refused_by_psql_itself(site: Site) -> None:
    with proxy_before(site) as proxy:
        wrong = target(proxy, "other.example.com", sslmode="verify-full", sslrootcert=site.ca)
        with pytest.raises(AssertionError, match="does not match host name"):
            psql(wrong, WHO)
        assert proxy.wait_records(1)[0]["pool"] == "one"


def test_who_wants_no_tls_has_none(site: Site) -> None:
    with proxy_before(site) as proxy:
        assert psql(target(proxy, TWO, sslmode="disable"), WHO) == "one|f"
        [record] = proxy.wait_records(1)
    assert (record["route"], record["sni"]) == (None, None)


@pytest.mark.parametrize("mode", ["disable", "prefer", "verify-full"])
def test_psql_asks_for_gssapi_first_and_goes_on_without(
    site: Site, mode: str, tmp_path: Path
) -> None:
    environment = {**os.environ, **ticket(tmp_path)}
    tls = {"sslmode": mode, "sslrootcert": site.ca}
    with proxy_before(site) as proxy:
        where = target(proxy, ONE, gssencmode="prefer", **tls)
        assert psql(where, WHO, env=environment) == f"one|{'f' if mode == 'disable' else 't'}"
        where = target(proxy, ONE, gssencmode="require", **tls)
        with pytest.raises(AssertionError, match="server doesn't support GSSAPI encryption"):
            psql(where, WHO, env=environment)
        records = proxy.wait_records(2)
    [left] = [record for record in records if record["upstream"] is None]
    assert (left["why"], left["phase"], left["closed_by"]) == ("done", "preread", "client")


def test_a_server_without_tls_is_named_in_the_record(site: Site) -> None:
    with proxy_before(site) as proxy:
        with pytest.raises(AssertionError, match="ended with 2"):
            psql(target(proxy, OFF, sslmode="require"), WHO)
        [record] = proxy.wait_records(1)
    assert (record["why"], record["upstream"]) == ("tls_handshake", site.off)
    assert record["tls_error"] == "the upstream refuses TLS (N)"


@pytest.mark.parametrize("name", [ONE, TWO])
def test_many_megabytes_arrive_as_from_the_server_itself(site: Site, name: str) -> None:
    sql = "copy (select i, repeat(md5(i::text), 8) from generate_series(1, 100000) i) to stdout"
    tls = {"sslmode": "verify-full", "sslrootcert": site.ca}
    with proxy_before(site) as proxy:
        digests = [
            hashlib.sha256(psql(where, sql).encode()).hexdigest()
            for where in (
                target(site.one if name == ONE else site.two, name, **tls),
                target(proxy, name, **tls),
            )
        ]
        [record] = proxy.wait_records(1)
    assert digests[0] == digests[1]
    assert record["bytes_down"] > 25_000_000


def test_pgbench_connects_again_and_again(site: Site) -> None:
    tls = {"sslmode": "require"}
    with proxy_before(site) as proxy:
        where = target(proxy, TWO, **tls)
        run([need_postgres("pgbench"), "-iq", where])
        said = run([need_postgres("pgbench"), "-n", "-S", "-c", 4, "-j", 2, "-t", 500, where])
        assert "processed: 2000/2000" in said, said
        again = run([need_postgres("pgbench"), "-n", "-S", "-C", "-c", 4, "-t", 25, where])
        assert "processed: 100/100" in again, again
        rates = [re.findall(r"tps = ([\d.]+)", text)[0] for text in (said, again)]
        print(f"transactions per second: {rates[0]}, with a connection for each {rates[1]}")
        records = proxy.wait_records(100)
    assert {(one["pool"], one["sni"]) for one in records} == {("two", TWO)}


@contextmanager
def proxy_that_ends_tls(site: Site) -> Iterator[Proxy]:
    text = ENDING.format(two_name=TWO, two=site.two, off=site.off, certificate=site.certificate)
    with running_proxy(text) as proxy:
        yield proxy


@pytest.mark.parametrize("gssenc", [False, True])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_tls_ends_here_beside_a_route_on_which_it_passes_through(
    site: Site, version: str, gssenc: bool, tmp_path: Path
) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": site.ca, "ssl_max_protocol_version": version}
    environment = {**os.environ, **(ticket(tmp_path) if gssenc else {})}
    with proxy_that_ends_tls(site) as proxy:
        # The server has no TLS, and psql verified a certificate: it is the proxy's.
        assert psql(target(proxy, ONE, **tls), WHO, env=environment) == "off|f"
        assert psql(target(proxy, TWO, **tls), WHO, env=environment) == "two|t"
        assert psql(target(proxy, ONE, sslmode="disable"), WHO, env=environment) == "off|f"
        records = proxy.wait_records(3)
    versions = {(one["sni"], one["tls_version"]) for one in records}
    assert versions == {(ONE, version), (TWO, None), (None, None)}


def test_megabytes_and_pgbench_over_tls_that_ends_here(site: Site) -> None:
    sql = "copy (select i, repeat(md5(i::text), 8) from generate_series(1, 100000) i) to stdout"
    with proxy_that_ends_tls(site) as proxy:
        where = target(proxy, ONE, sslmode="verify-full", sslrootcert=site.ca)
        clear = target(site.off, ONE, sslmode="disable")
        digests = {hashlib.sha256(psql(to, sql).encode()).hexdigest() for to in (where, clear)}
        assert len(digests) == 1
        run([need_postgres("pgbench"), "-iq", where])
        said = run([need_postgres("pgbench"), "-n", "-S", "-c", 4, "-j", 2, "-t", 500, where])
        assert "processed: 2000/2000" in said, said
        again = run([need_postgres("pgbench"), "-n", "-S", "-C", "-c", 4, "-t", 25, where])
        assert "processed: 100/100" in again, again
        proxy.wait_records(100)


@pytest.mark.parametrize("ends_here", [False, True])
def test_a_query_is_cancelled_by_psqls_second_connection(site: Site, ends_here: bool) -> None:
    """It comes in clear and names nobody, so it goes where routes send such clients."""
    server, pool = (site.off, "off") if ends_here else (site.one, "one")
    with proxy_that_ends_tls(site) if ends_here else proxy_before(site) as proxy:
        with subprocess.Popen(
            [
                need_postgres("psql"), "-XAt", target(proxy, ONE, sslmode="require"),
                "-c", "select 'began'", "-c", "select pg_sleep(60)",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "began\n"
            watcher = target(server, ONE, sslmode="disable")
            asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            while psql(watcher, asleep) == "0":
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert "canceling statement due to user request" in errors
        assert {one["pool"] for one in proxy.wait_records(2)} == {pool}


AGAIN = """
listeners:
  db:
    bind: 127.0.0.1:0
    tls: {{certificates: [{certificate}]}}
    routes: [{{protocol: postgres, pool: two}}]
    pool: two
  wrong: {{bind: 127.0.0.1:0, pool: wrong, routes: [{{protocol: postgres, pool: wrong}}]}}
  none: {{bind: 127.0.0.1:0, pool: none, routes: [{{protocol: postgres, pool: none}}]}}
pools:
  two: {{upstreams: {two}, tls: {{ca: {ca}, name: {two_name}}}, health: {health}}}
  wrong: {{upstreams: {two}, tls: {{ca: {ca}, name: {one_name}}}, health: {health}}}
  none: {{upstreams: {off}, tls: {{ca: {ca}, name: {two_name}}}, health: {health}}}
"""


@pytest.mark.parametrize("mode", ["disable", "require", "verify-full"])
def test_tls_begins_again_for_a_client_whose_tls_ended_here_and_for_one_in_clear(
    site: Site, mode: str
) -> None:
    health = "{check: postgres, interval: 200ms, timeout: 3s}"
    names = {"one_name": ONE, "two_name": TWO}
    text = AGAIN.format(**vars(site), **names, health=health)
    with running_proxy(text) as proxy:
        where = target(proxy, ONE, sslmode=mode, sslrootcert=site.ca)
        assert psql(where, WHO) == "two|t"
        record = proxy.wait_records(1)[0]
        assert record["tls_version"] == (None if mode == "disable" else "TLSv1.3")
        for listener, why in (
            ("wrong", "certificate verify failed: Hostname mismatch"),
            ("none", "the upstream refuses TLS (N)"),
        ):
            down = proxy.wait_log(
                "upstream down", where=lambda line, at=listener: line["pool"] == at
            )
            assert why in down["reason"]
        assert {line["pool"] for line in proxy.log("upstream down")} == {"wrong", "none"}
