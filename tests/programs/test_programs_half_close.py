"""socat and nc: one side says FIN, and the other one still has much to say."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from harness.load import blocks, digest, stream_bytes
from harness.proxy import Proxy, running_proxy
from harness.serving import FAMILIES
from harness.upstreams import half_close, sink
from harness.wait import wait_until
from real_programs import bind_text, free_port, need, program, run, web

SIZE = 8 * 1024 * 1024 + 77
SEED = 5

near_side = pytest.mark.parametrize("near", FAMILIES)
far_side = pytest.mark.parametrize("far", ["v4", "unix"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stream"
    with path.open("wb") as out:
        for block in blocks(SIZE, SEED):
            out.write(block)
    return path


def nc(proxy: Proxy) -> list[str]:
    """nc that sends FIN after its input, and waits for the answer."""
    name = proxy.address("web")
    where = ["-U", name] if isinstance(name, str) else [name[0], str(name[1])]
    return [need("nc"), "-N", *where]


def socat(proxy: Proxy) -> list[str]:
    """socat that sends FIN after its input, and waits half a minute for the answer."""
    name = proxy.address("web")
    if isinstance(name, str):
        return [need("socat"), "-t30", "-", f"UNIX-CONNECT:{name}"]
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return [need("socat"), "-t30", "-", f"TCP:{host}:{name[1]}"]


@near_side
@far_side
@pytest.mark.parametrize("client", [nc, socat])
def test_the_answer_comes_after_the_clients_fin(
    near: str, far: str, client: object, file: Path, tmp_path: Path
) -> None:
    command = {nc: nc, socat: socat}[client]  # type: ignore[index]
    with (
        sink(far) as upstream,
        running_proxy(web(upstream.address, bind_text(near, tmp_path))) as proxy,
    ):
        with file.open("rb") as stdin:
            answer = run(command(proxy), stdin=stdin)
        assert answer == digest(SIZE, SEED)
        [record] = proxy.wait_records(1)
    assert (record["why"], record["how"], record["closed_by"]) == ("done", "fin", "client")
    assert (record["bytes_up"], record["bytes_down"]) == (SIZE, len(answer))


@near_side
@far_side
def test_socat_goes_on_sending_after_the_upstreams_fin(near: str, far: str, tmp_path: Path) -> None:
    """socat gets something to send when the upstream's word, and FIN behind it, have come."""
    with (
        half_close(far) as upstream,
        running_proxy(web(upstream.address, bind_text(near, tmp_path))) as proxy,
        subprocess.Popen(socat(proxy), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == b"enough\n"
        client.stdin.write(stream_bytes(SIZE, SEED))
        client.stdin.close()
        assert client.wait(30) == 0
        wait_until(lambda: upstream.results, 10, "what the upstream got")
        assert upstream.results == [(SIZE, digest(SIZE, SEED))]
        [record] = proxy.wait_records(1)
    assert (record["why"], record["how"], record["closed_by"]) == ("done", "fin", "upstream")


def test_an_upstream_that_answers_at_the_end_of_its_input(file: Path, tmp_path: Path) -> None:
    """`sha256sum` behind socat knows nothing of networks: it needs the FIN, and the way back."""
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    command = [need("socat"), "-t30", listen, "EXEC:sha256sum"]
    with (
        program(command, tmp_path / "log", ("127.0.0.1", port)),
        running_proxy(web(f"127.0.0.1:{port}")) as proxy,
        file.open("rb") as stdin,
    ):
        assert run(nc(proxy), stdin=stdin).split()[0] == digest(SIZE, SEED)


def test_nc_on_both_sides_each_ends_when_it_likes(file: Path, tmp_path: Path) -> None:
    """The upstream's nc sends a word and FIN at once, while the client's has eight MiB to send."""
    port = free_port()
    got = tmp_path / "got"
    with running_proxy(web(f"127.0.0.1:{port}")) as proxy:
        with (
            got.open("wb") as output,
            subprocess.Popen(
                [need("nc"), "-l", "-N", "127.0.0.1", str(port)],
                stdin=subprocess.PIPE,
                stdout=output,
            ) as upstream,
            file.open("rb") as stdin,
        ):
            assert upstream.stdin is not None
            upstream.stdin.write(b"word")
            upstream.stdin.close()
            wait_until(lambda: _listens(port), 10, "nc's listening socket")
            assert run(nc(proxy), stdin=stdin) == "word"
            assert upstream.wait(30) == 0
        [record] = proxy.wait_records(1)
    assert record["why"] == "done"
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest(SIZE, SEED)


def _listens(port: int) -> bool:
    """Whether somebody listens there, found out without a connection: nc serves one only."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()
