"""control/upgrade.py, inherited.py and succession.py: new processes of the program, one after the
other, that take over from each other. Nobody is refused, and no session ends for it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from harness.dns import dns_server
from harness.door import request
from harness.fds import alive, children, fd_kinds
from harness.generations import Generations, generations
from harness.ports import free_port
from harness.proxy import connect, refused, running_proxy
from harness.upstreams import echo, named, refuse
from harness.wait import wait_until

both_crews = pytest.mark.parametrize("workers", [1, 2])


def yaml(pool: str, *listeners: str, more: str = "") -> str:
    """Listeners `name: address` with the pool `app`."""
    pairs = [one.split(" ", 1) for one in listeners]
    lines = [f"  {name}: {{bind: '{address}', pool: app}}" for name, address in pairs]
    return "\n".join([more, "listeners:", *lines, "pools:", f"  app: {{upstreams: [{pool}]}}", ""])


def talk(client: socket.socket) -> None:
    """One message there and back."""
    client.sendall(b"still here")
    assert client.recv(100) == b"still here"


def heard(name: tuple[str, int] | str) -> bytes:
    with connect(name) as client:
        return client.makefile("rb").read()


@both_crews
def test_each_generation_keeps_its_sessions_and_ends_after_them(
    workers: int, tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    text = yaml("{up}", "web 127.0.0.1:0", f"files unix:{path}")
    with ExitStack() as stack:
        up = stack.enter_context(echo())
        text = text.replace("{up}", up.address)
        proxy = stack.enter_context(generations(text, tmp_path, workers=workers))
        web = proxy.proxy.address("web")
        sessions = []
        for _ in range(4):
            sessions += [connect(web), connect(str(path))]
            for client in sessions:
                talk(client)
            proxy.upgrade()
            assert proxy.status()["pid"] == proxy.pid
        assert [alive(pid) for pid in proxy.pids()] == [True] * 5
        wait_until(lambda: proxy.status()["older_sessions"] == 8, 5, "their number is known")
        # The third ends its own sessions, and stays for those of its predecessors.
        for client in sessions[4:6]:
            talk(client)
            client.close()
        wait_until(lambda: proxy.status()["older_sessions"] == 6, 5, "two have ended")
        assert alive(proxy.pids()[2])
        for client in (*sessions[:4], *sessions[6:]):
            talk(client)
            client.close()
        proxy.wait_alone()
        assert path.exists()
        with connect(web) as client:
            talk(client)
        with connect(str(path)) as client:
            talk(client)
        records = proxy.proxy.wait_records(10)
        proxy.stop()
        assert not path.exists()
        assert not proxy.door.exists()
    assert {record["why"] for record in records} == {"done"}


def test_the_number_of_workers_changes_and_who_waits_is_served(tmp_path: Path) -> None:
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:0")
        with generations(text, tmp_path) as proxy:
            web = proxy.proxy.address("web")
            for workers in (2, 1, 2):
                head = re.sub(r"workers: \d", f"workers: {workers}", proxy.head)
                proxy.proxy.config.write_text(f"{head}\n{text}")
                old = proxy.workers()
                for pid in old:
                    os.kill(pid, signal.SIGSTOP)
                waiting = [connect(web) for _ in range(20)]
                upgrade = threading.Thread(target=proxy.upgrade)
                before = len(proxy.pids())
                upgrade.start()
                wait_until(lambda before=before: len(proxy.pids()) > before, 15, "ready")
                for pid in old:
                    os.kill(pid, signal.SIGCONT)
                upgrade.join()
                assert len(proxy.workers()) == workers
                for client in waiting:
                    with client:
                        assert client.makefile("rb").read() == b"one"
                assert [heard(web) for _ in range(10)] == [b"one"] * 10
                proxy.wait_alone()


@both_crews
def test_listeners_and_the_door_come_and_go_with_it(workers: int, tmp_path: Path) -> None:
    path, door = tmp_path / "b.sock", tmp_path / "other.sock"
    a, c = free_port(), free_port()
    with named("one") as one:
        text = yaml(one.address, f"a 127.0.0.1:{a}", f"b unix:{path}")
        with generations(text, tmp_path, workers=workers) as proxy:
            head = proxy.head
            new = yaml(one.address, f"site 127.0.0.1:{a}", f"c 127.0.0.1:{c}")
            moved = head.replace(str(proxy.door), str(door))
            proxy.proxy.config.write_text(f"{moved}\n{new}")
            proxy.upgrade()
            assert refused(str(path))
            assert heard(("127.0.0.1", a)) == heard(("127.0.0.1", c)) == b"one"
            assert not proxy.door.exists()
            proxy.door = door
            assert [one["name"] for one in proxy.status()["listeners"]] == ["site", "c"]
            proxy.wait_alone()
            proxy.proxy.config.write_text(f"{moved}\n{text}")
            proxy.upgrade()
            wait_until(partial(refused, ("127.0.0.1", c)), 5, "the end of c")
            assert heard(str(path)) == heard(("127.0.0.1", a)) == b"one"


def test_a_reload_works_on_what_was_inherited(tmp_path: Path) -> None:
    with (
        named("one") as one,
        named("two") as two,
        generations(yaml(one.address, "web 127.0.0.1:0"), tmp_path) as proxy,
    ):
        web = proxy.proxy.address("web")
        proxy.upgrade()
        proxy.write(yaml(two.address, "web 127.0.0.1:0"))
        assert request(proxy.door, "POST", "/api/v1/reload")[0] == 200
        assert heard(web) == b"two"
        assert len(proxy.proxy.addresses("web")) == 2
        proxy.write(yaml(two.address, "site 127.0.0.1:0"))
        assert request(proxy.door, "POST", "/api/v1/reload")[0] == 200
        wait_until(partial(refused, web), 5, "the end of web")


BAD_PROGRAMS = {
    "exits": ("#!/bin/sh\nexit 3\n", "the new process ended before it was ready"),
    "no interpreter": ("#!/no/such/interpreter\n", "No such file or directory"),
    "never ready": ("#!/bin/sh\nexec sleep 1000\n", "the new process was not ready within 6 s"),
}

PROGRAM = """#!{python}
import sys
from pathlib import Path
from spliceproxy import config, control
from spliceproxy.admin import Admin
from spliceproxy.control.fleet import Patience
path = Path(sys.argv[2])
load = lambda: config.load(path)
sys.exit(control.run(load(), patience=Patience(upgrade=6), load=load, admin=Admin))
"""


def program(directory: Path) -> Path:
    """`spliceproxy` as an executable script, with little patience."""
    script = directory / "program"
    script.write_text(PROGRAM.format(python=sys.executable))
    script.chmod(0o755)
    return script


def goes_on(proxy: Generations, client: socket.socket, pid: int) -> None:
    """Nothing has changed: neither for a session, nor for the next one, nor at the door."""
    talk(client)
    with connect(proxy.proxy.address("web")) as other:
        talk(other)
    assert proxy.status()["pid"] == pid
    assert proxy.proxy.wait_log("not upgraded: this process goes on")["problems"]


@pytest.mark.parametrize("bad", BAD_PROGRAMS)
def test_where_the_new_program_does_not_serve_the_old_one_goes_on(bad: str, tmp_path: Path) -> None:
    text, told = BAD_PROGRAMS[bad]
    script = program(tmp_path)
    with echo() as up:
        new = yaml(up.address, "web 127.0.0.1:0", more="log: {format: json}")
        with generations(new, tmp_path, command=(str(script),)) as proxy:
            pid = proxy.pid
            with connect(proxy.proxy.address("web")) as client:
                talk(client)
                before = fd_kinds(pid)
                good = script.read_text()
                other = tmp_path / "other"
                other.write_text(text)
                other.chmod(0o755)
                other.replace(script)
                done = proxy.order()
                assert done.returncode == 1
                assert told in done.stderr
                assert f"pid {pid} goes on" in done.stderr
                goes_on(proxy, client, pid)
                wait_until(lambda: fd_kinds(pid) == before, 5, "the same fds as before")
                program(tmp_path).write_text(good)
                proxy.upgrade()
                talk(client)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("listeners: {", "app.yaml:4:"),
        (yaml("127.0.0.1:1", "web 192.0.2.1:80"), "192.0.2.1:80: no interface of this machine"),
        (yaml("127.0.0.1:1", "web no.such.host.invalid:0"), "no.such.host.invalid"),
    ],
)
def test_a_wrong_configuration_is_told_and_the_old_process_goes_on(
    bad: str, told: str, tmp_path: Path
) -> None:
    with (
        echo() as up,
        generations(yaml(up.address, "web 127.0.0.1:0"), tmp_path) as proxy,
        connect(proxy.proxy.address("web")) as client,
    ):
        talk(client)
        proxy.write(bad)
        done = proxy.order()
        assert done.returncode == 1
        assert told in done.stderr
        goes_on(proxy, client, proxy.pid)


def test_while_one_upgrade_is_under_way_there_is_no_other_and_a_stop_ends_it(
    tmp_path: Path,
) -> None:
    script = program(tmp_path)
    with echo() as up:
        text = yaml(up.address, "web 127.0.0.1:0")
        with generations(text, tmp_path, command=(str(script),)) as proxy:
            script.write_text("#!/bin/sh\nexec sleep 1000\n")
            first = threading.Thread(target=proxy.order)
            first.start()
            proxy.proxy.wait_log("upgrading")
            code, answer = request(proxy.door, "POST", "/api/v1/upgrade")
            assert (code, answer["error"]) == (409, "not upgraded: an upgrade is under way")
            proxy.proxy.terminate()
            assert proxy.proxy.wait() == 0
            first.join()
            told = [line for line in proxy.proxy.log("not upgraded") if line["level"] == "info"]
            assert told[0]["problems"] == ["the proxy is stopping"]
            assert "goes on" not in proxy.proxy.stderr


def test_what_was_drained_and_who_is_down_stays_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        one, two = stack.enter_context(named("one")), stack.enter_context(named("two"))
        dead = stack.enter_context(refuse())
        pool = f"{one.address}, {two.address}, {dead.address}"
        text = yaml(pool, "web 127.0.0.1:0", more="health: {interval: 60s}")
        proxy = stack.enter_context(generations(text, tmp_path))
        proxy.proxy.wait_log("upstream down")
        target = {"target": f"pool/app/{one.address}"}
        assert request(proxy.door, "POST", "/api/v1/drain", target)[0] == 200
        for _ in range(2):
            proxy.upgrade()
            [found] = proxy.status()["pools"]
            states = {entry["name"]: entry["states"] for entry in found["upstreams"]}
            assert states == {
                one.address: ["draining"],
                two.address: ["up"],
                dead.address: ["down"],
            }
            assert heard(proxy.proxy.address("web")) == b"two"
        assert request(proxy.door, "POST", "/api/v1/undrain", target)[0] == 200
        proxy.upgrade()
        web = proxy.proxy.address("web")
        assert {heard(web) for _ in range(4)} == {b"one", b"two"}


def test_what_is_drained_while_the_new_process_starts_is_drained_there(tmp_path: Path) -> None:
    with (
        named("one") as one,
        generations(yaml(one.address, "web 127.0.0.1:0"), tmp_path) as proxy,
    ):
        upgrade = threading.Thread(target=proxy.upgrade)
        upgrade.start()
        proxy.proxy.wait_log("upgrading")
        assert request(proxy.door, "POST", "/api/v1/drain", {"target": "pool/app"})[0] == 200
        assert len(proxy.pids()) == 1, "the new process was too fast for this test"
        upgrade.join()
        assert proxy.status()["pools"][0]["upstreams"][0]["states"] == ["draining"]


def test_who_is_ejected_stays_so_for_the_rest_of_its_time(tmp_path: Path) -> None:
    with named("one") as one, refuse() as dead:
        pool = f"{one.address}, {dead.address}"
        text = yaml(pool, "web 127.0.0.1:0").replace(
            "upstreams:", "eject: {after: 1, time: 6s, at_most: 50%}, upstreams:"
        )
        with generations(text, tmp_path) as proxy:
            web = proxy.proxy.address("web")
            assert [heard(web) for _ in range(2)] == [b"one"] * 2
            proxy.proxy.wait_log("upstream ejected")
            proxy.upgrade()
            assert proxy.status()["pools"][0]["upstreams"][1]["states"] == ["ejected"]
            back = proxy.proxy.wait_log("upstream back")
            assert back["upstream"] == dead.address


def test_sigusr2_is_an_upgrade(tmp_path: Path) -> None:
    with (
        named("one") as one,
        generations(yaml(one.address, "web 127.0.0.1:0"), tmp_path) as proxy,
    ):
        proxy.proxy.signal(signal.SIGUSR2)
        wait_until(lambda: len(proxy.pids()) == 2, 10, "the successor's `ready`")
        assert proxy.status()["pid"] == proxy.pid
        assert proxy.proxy.wait() == 0


HAND_OVER = """
import os, socket, sys
for fd in (3, 4):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    os.dup2(sock.fileno(), 20 + fd)
for fd in (3, 4):
    os.dup2(20 + fd, fd, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:web")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_sockets_of_systemd_stay_with_their_listener(tmp_path: Path) -> None:
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:1", "db 127.0.0.1:0")
        wrapper = (sys.executable, "-c", HAND_OVER)
        with generations(text, tmp_path, workers=2, wrapper=wrapper) as proxy:
            handed = [proxy.proxy.address("web", index) for index in range(2)]
            for _ in range(2):
                proxy.upgrade()
                proxy.wait_alone()
                assert [heard(name) for name in handed * 4] == [b"one"] * 8
            proxy.write(yaml(one.address, "db 127.0.0.1:0"))
            proxy.upgrade()
            for name in handed:
                wait_until(partial(refused, name), 5, "the end of web")


def test_systemd_hears_who_the_main_process_is_from_the_one_that_was(tmp_path: Path) -> None:
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:0")
        env = {"WATCHDOG_USEC": "4000000"}
        with generations(text, tmp_path, notify=True, env=env) as proxy:
            proxy.proxy.notifications()
            pid = proxy.upgrade()
            told: list[str] = []

            def ready_and_well() -> bool:
                told.extend(proxy.proxy.notifications())
                ready = [n for n, one in enumerate(told) if f"MAINPID={pid}\nSTATUS" in one]
                return bool(ready) and "WATCHDOG=1" in told[ready[0] :]

            wait_until(ready_and_well, 10, f"READY and WATCHDOG of the new process in {told}")
            proxy.wait_alone()
            told.extend(proxy.proxy.notifications())
            rest = [one for one in told if one != "WATCHDOG=1"]
            assert rest[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert rest[1:] == [
                f"MAINPID={pid}\nREADY=1",
                f"READY=1\nMAINPID={pid}\nSTATUS=1 workers ready",
            ]


def test_systemd_hears_that_all_is_well_when_an_upgrade_failed(tmp_path: Path) -> None:
    with (
        named("one") as one,
        generations(yaml(one.address, "web 127.0.0.1:0"), tmp_path, notify=True) as proxy,
    ):
        proxy.proxy.notifications()
        proxy.write("listeners: {")
        assert proxy.order().returncode == 1
        reloading, ready = proxy.proxy.notifications()
        assert reloading.startswith("RELOADING=1")
        assert ready == "READY=1"


@pytest.mark.parametrize("order", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_the_end_of_the_new_process_is_the_old_ones_too(order: str, tmp_path: Path) -> None:
    with echo() as up:
        text = yaml(up.address, "web 127.0.0.1:0", more="timeouts: {drain: 200ms}")
        with generations(text, tmp_path) as proxy:
            web = proxy.proxy.address("web")
            clients = []
            for _ in range(3):
                clients.append(connect(web))
                talk(clients[-1])
                if len(clients) < 3:
                    proxy.upgrade()
            assert [alive(pid) for pid in proxy.pids()] == [True] * 3
            os.kill(proxy.pid, signal.Signals[order])
            proxy.wait_gone(*proxy.pids())
            for client in clients:
                with client, pytest.raises(ConnectionResetError):
                    client.recv(1)
            if order != "SIGKILL":
                whys = [record["why"] for record in proxy.proxy.wait_records(3)]
                assert whys == ["stopped"] * 3


def test_files_of_records_are_opened_anew_by_all_generations(tmp_path: Path) -> None:
    file = tmp_path / "records"
    with echo() as up:
        text = yaml(up.address, "web 127.0.0.1:0", more=f"log: {{sessions: {{to: 'file:{file}'}}}}")
        with generations(text, tmp_path) as proxy:
            client = connect(proxy.proxy.address("web"))
            talk(client)
            proxy.upgrade()
            file.rename(tmp_path / "rotated")
            os.kill(proxy.pid, signal.SIGUSR1)
            wait_until(file.exists, 5, "the new file")
            with connect(proxy.proxy.address("web")) as other:
                talk(other)
            wait_until(lambda: file.read_bytes().count(b"\n") == 1, 5, "a record of the new one")
            client.close()
            wait_until(lambda: file.read_bytes().count(b"\n") == 2, 5, "a record of the old one")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of processes")
def test_pid_1_refuses_with_a_sentence(tmp_path: Path) -> None:
    prefix = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    door = tmp_path / "admin.sock"
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:0", more=f"admin: {{bind: 'unix:{door}'}}")
        with running_proxy(text, wrapper=prefix, expect_exit=None) as proxy:
            proxy.wait_log("door open")
            code, answer = request(door, "POST", "/api/v1/upgrade")
            assert code == 409
            assert answer["error"] == (
                "not upgraded: this process is PID 1, with which its container ends; "
                "replace the container by one of the new image"
            )
            assert heard(proxy.address("web")) == b"one"
            [init] = children(proxy.pid)
            os.kill(init, signal.SIGTERM)
            assert proxy.wait() == 0


def test_no_generation_has_more_fds_than_the_first(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:0", f"files unix:{path}")
        with generations(text, tmp_path, workers=2) as proxy:

            def kinds() -> list[dict[str, int]]:
                pids = [proxy.pid, *proxy.workers()]
                return [dict(fd_kinds(pid)) for pid in pids]

            proxy.upgrade()
            proxy.wait_alone()
            first = kinds()
            for _ in range(3):
                proxy.upgrade()
                proxy.wait_alone()
            wait_until(lambda: kinds() == first, 5, f"fds as in the first: {first} {kinds()}")


def test_a_door_that_hands_over_still_answers_who_asked(tmp_path: Path) -> None:
    with (
        named("one") as one,
        generations(yaml(one.address, "web 127.0.0.1:0"), tmp_path) as proxy,
    ):
        code, answer = request(proxy.door, "POST", "/api/v1/upgrade")
        assert code == 200
        assert answer == {"pid": answer["pid"], "sessions": 0}
        wait_until(lambda: proxy.status()["pid"] == answer["pid"], 5, "the new one answers")


def test_the_variable_of_a_handover_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text("admin: off\n" + yaml("127.0.0.1:1", "web 127.0.0.1:0"))
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "run", str(file)],
        env={**os.environ, "SPLICEPROXY_HANDOVER": "77,78"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "only an upgrade sets this variable; unset it" in done.stderr


def test_what_names_stood_for_survives_though_dns_is_silent_meanwhile(tmp_path: Path) -> None:
    with ExitStack() as stack:
        dns, up = stack.enter_context(dns_server()), stack.enter_context(named("one"))
        port = up.address.rpartition(":")[2]
        dns.answer("app.test", A="127.0.0.1", ttl=60)
        dns.answer("_app._tcp.app.test", SRV=[f"0 5 {port} app.test."], ttl=60)
        text = yaml(
            f"'app.test:{port}'", "web 127.0.0.1:0", more=f"dns: {{servers: {dns.address}}}"
        )
        text += "  other: {upstreams: ['srv:_app._tcp.app.test']}\n"
        text = text.replace("pools:", "  also: {bind: '127.0.0.1:0', pool: other}\npools:")
        proxy = stack.enter_context(generations(text, tmp_path))
        names = [proxy.proxy.address("web"), proxy.proxy.address("also")]
        assert [heard(name) for name in names] == [b"one", b"one"]
        for name in ("app.test", "_app._tcp.app.test"):
            dns.misbehave(name, "silence")
        proxy.upgrade()
        assert [heard(name) for name in names] == [b"one", b"one"]


def test_a_change_of_the_file_while_it_takes_over_is_put_in_force_when_it_serves(
    tmp_path: Path,
) -> None:
    with named("one") as one:
        text = yaml(one.address, f"web 127.0.0.1:{free_port()}")
        with generations(text, tmp_path, workers=1, options=["--watch"]) as proxy:
            first, [old] = proxy.proxy, proxy.pids()
            upgrade = threading.Thread(target=proxy.order)
            upgrade.start()
            wait_until(lambda: len(first.log("worker started")) == 2, 10, "its worker")
            os.kill(old, signal.SIGSTOP)
            changed = first.config.read_text().replace("web:", "site:")
            first.config.write_text(changed)
            first.wait_log("the configuration changed")
            with pytest.raises(AssertionError):
                wait_until(lambda: "not reloaded" in first.stderr, 1, "a reload too early")
            os.kill(old, signal.SIGCONT)
            upgrade.join()
            first.wait_log("reloaded")
            assert [each["name"] for each in proxy.status()["listeners"]] == ["site"]
            assert heard(first.address("web")) == b"one"
            assert not [line for line in first.log() if line["level"] == "error"]


@pytest.mark.parametrize("text", ["}{ half of it", None])
def test_what_a_file_listed_survives_though_it_is_broken_or_gone(
    text: str | None, tmp_path: Path
) -> None:
    with named("one") as one, named("two") as two:
        listed = tmp_path / "upstreams.yaml"
        port = two.address.rpartition(":")[2]
        name = f"{{address: 'localhost:{port}', weight: 2, max_sessions: 9}}"
        listed.write_text(f"[{{address: '{one.address}', weight: 3, tier: 1}}, {name}]")
        with generations(yaml(f"'file:{listed}'", "web 127.0.0.1:0"), tmp_path) as proxy:
            before = proxy.status()["pools"]
            assert len(before[0]["upstreams"]) == 2
            if text is None:
                listed.unlink()
            else:
                listed.write_text(text)
            for _ in range(2):
                proxy.upgrade()
                assert proxy.status()["pools"] == before
            assert heard(proxy.proxy.address("web")) == b"two"
            listed.write_text(f"[{one.address}]")
            wait_until(lambda: heard(proxy.proxy.address("web")) == b"one", 10, "the file")


def test_a_drained_listener_stays_drained_and_is_had_again(tmp_path: Path) -> None:
    with named("one") as one:
        text = yaml(one.address, "web 127.0.0.1:0", f"other 127.0.0.1:{free_port()}")
        with generations(text, tmp_path) as proxy:
            web, other = proxy.proxy.address("web"), proxy.proxy.address("other")
            request(proxy.door, "POST", "/api/v1/drain", {"target": "listener/other"})
            wait_until(lambda: refused(other), 5, "it lets nobody in")
            proxy.upgrade()
            assert refused(other)
            assert heard(web) == b"one"
            listeners = {each["name"]: each for each in proxy.status()["listeners"]}
            assert [listeners[name]["draining"] for name in ("web", "other")] == [False, True]
            request(proxy.door, "POST", "/api/v1/undrain", {"target": "all"})
            wait_until(lambda: not refused(other), 5, "it lets clients in")
            assert heard(other) == b"one"


def test_a_process_whose_door_is_elsewhere_now_follows_changes_and_ends_well(
    tmp_path: Path,
) -> None:
    with echo() as one, echo() as two:
        listed = tmp_path / "upstreams.yaml"
        listed.write_text(f"- {one.address}\n")
        with generations(yaml(f"'file:{listed}'", "web 127.0.0.1:0"), tmp_path) as proxy:
            first = proxy.proxy
            with first.connect("web") as client:
                talk(client)
                text = first.config.read_text()
                first.config.write_text(text.replace("admin.sock", "moved.sock"))
                proxy.upgrade()
                listed.write_text(f"- {two.address}\n")
                wait_until(lambda: len(first.log("upstreams changed")) == 2, 10, "both follow")
                talk(client)
            assert first.wait() == 0
