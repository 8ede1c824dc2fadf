"""`spliceproxy explain`: from a file, and of a running proxy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from command import Spliceproxy
from harness.proxy import running_proxy
from harness.upstreams import named, refuse
from tmux import quoted, terminal

YAML = """\
listeners:
  web:
    bind: ":8443"
    access: [{allow: 10.1.0.0/16}, {deny: 10.0.0.0/8}]
    limits: {rate: {per_second: 2000, burst: 4000}}
    routes:
      - {sni: "*.db.example.com", pool: secure}
      - {source: 10.0.0.0/8, protocol: ssh, pool: canary}
      - {sni: www.example.com, alpn: h2, pool: {app: 95, canary: 5}}
    pool: app
pools:
  app: {balance: source_hash, upstreams: [10.0.0.1:80, 10.0.0.2:80]}
  canary: {upstreams: 10.0.0.20:80}
  secure: {upstreams: db.internal:443}
"""
CLIENT = ["--listener", "web", "--sni", "www.example.com", "--alpn", "h2", "--source", "10.1.2.3"]


def test_each_step_is_a_line(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(YAML)
    shown = spliceproxy("explain", file, *CLIENT)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "client    10.1.2.3, speaks tls, asks for www.example.com, offers h2; at listener web",
        "access    ✓ may come in: access[0] allow 10.1.0.0/16",
        "limits    at the most 2000 new sessions a second (burst 4000)",
        "routes    routes[0]  ✗ sni *.db.example.com",
        "          routes[1]  ✓ source 10.0.0.0/8  ✗ protocol ssh",
        "          routes[2]  ✓ sni www.example.com  ✓ alpn h2  → app (95%), canary (5%)",
        "tls       goes on to the upstream as it came",
        "pool      app, for 95% of such clients, source_hash",
        "          the place of 10.1.2.3 in the table is 10.0.0.1:80's",
        "upstream  10.0.0.1:80",
        "pool      canary, for 5% of such clients, round_robin",
        "          the only one that can be used",
        "upstream  10.0.0.20:80",
        "",
        "upstreams of app  share  tier  weight",
        "10.0.0.1:80         50%     0       1  ← this one",
        "10.0.0.2:80         50%     0       1",
        "",
        "upstreams of canary  share  tier  weight",
        "10.0.0.20:80          100%     0       1  ← this one",
    ]


def test_what_is_not_known_without_dns_and_who_is_refused_are_told(
    tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    (tmp_path / "spliceproxy.yaml").write_text(YAML)
    shown = spliceproxy("explain", "--listener", "web", "--sni", "a.db.example.com")
    assert shown.returncode == 0
    assert "client    without an IP address, speaks tls" in shown.stdout
    assert "          not known here: db.internal:443 (needs DNS)\n" in shown.stdout
    shown = spliceproxy("explain", "--listener", "web", "--source", "10.2.2.3")
    assert shown.stdout.splitlines()[-1] == (
        "refused   ✗ an access rule denies its address; the record says access_denied, and the "
        "client meets a reset"
    )


def test_json_has_all_of_it(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(YAML)
    answer = json.loads(spliceproxy("explain", file, *CLIENT, "--json").stdout)
    assert answer["route"] == "routes[2]"
    assert answer["live"] is False
    assert answer["pools"][0]["upstream"] == "10.0.0.1:80"


def test_it_fits_eighty_columns(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(YAML)
    command = quoted(sys.executable, "-m", "spliceproxy", "explain", file, *CLIENT)
    with terminal(tmp_path, 80, 40) as shell:
        shell.type(f"clear; {command}")
        shell.press("Enter")
        screen = shell.wait(
            lambda now: now.startswith("client") and now.rstrip().endswith("$"), "the explanation"
        )
    lines = screen.rstrip("\n$ ").splitlines()
    assert max(map(len, lines)) <= 80
    assert "          web" in lines  # what does not fit goes on under what it belongs to


def test_wrong_questions_are_one_line(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(YAML)
    for options, code, said in (
        (["--listener", "wed"], 1, "there is no listener wed; did you mean web?"),
        (["--listener", "web", "--source", "x"], 1, "source x: it is no IP address"),
    ):
        shown = spliceproxy("explain", file, *options)
        assert (shown.returncode, shown.stdout) == (code, "")
        assert shown.stderr == f"spliceproxy: {said}\n"
    file.write_text(YAML.replace("source_hash", "sauce_hash"))
    shown = spliceproxy("explain", file, *CLIENT)
    assert shown.returncode == 78
    assert "sauce_hash" in shown.stderr


def test_a_running_proxy_tells_of_this_moment(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    door = tmp_path / "real.sock"
    with named("one") as one, named("two") as two, refuse() as three:
        upstreams = f"[{{address: '{one.address}', weight: 3}}, {two.address}, {three.address}]"
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            "health: {interval: 100ms, timeout: 1s, fall: 1, rise: 1}\n"
            "listeners:\n"
            '  web: {bind: "127.0.0.1:0", pool: app}\n'
            '  hash: {bind: "127.0.0.1:0", pool: hashed}\n'
            "pools:\n"
            f"  app: {{upstreams: {upstreams}}}\n"
            f"  hashed: {{balance: source_hash, upstreams: {upstreams}}}\n"
        )
        with running_proxy(text, workers=2) as proxy:
            proxy.wait_log("upstream down", where=lambda line: line["pool"] == "app")
            proxy.wait_log("upstream down", where=lambda line: line["pool"] == "hashed")

            def told(listener: str, *options: str) -> dict[str, object]:
                asked = ("--live", "--listener", listener, "--admin", str(door), "--json")
                shown = spliceproxy("explain", *asked, *options)
                assert shown.returncode == 0, shown.stderr
                answer: dict[str, object] = json.loads(shown.stdout)["pools"][0]
                return answer

            shares = {one["name"]: (one["share"], one["why"]) for one in told("web")["upstreams"]}
            assert shares == {
                one.address: (0.75, ""),
                two.address: (0.25, ""),
                three.address: (0.0, "down"),
            }
            spliceproxy("drain", f"pool/app/{one.address}", "--admin", door)
            assert told("web")["upstream"] == two.address
            said = told("hash", "--source", "127.0.0.1")["upstream"]
            with proxy.connect("hash") as client:
                client.recv(10)
            [record] = proxy.wait_records(1)
            assert record["upstream"] == said
            spliceproxy("drain", "listener/web", "--admin", door)
            shown = spliceproxy("explain", "--live", "--listener", "web", "--admin", door)
            assert shown.stdout.splitlines()[-1] == (
                "refused   ✗ the listener is draining: nobody gets in"
            )
            shown = spliceproxy("explain", "--live", "--listener", "wed", "--admin", door)
            assert shown.stderr == "spliceproxy: there is no listener wed; did you mean web?\n"
