"""A real DNS server on loopback, over UDP and TCP, that answers what the test says.

with dns_server() as dns:
    dns.answer("app.test", A="10.0.0.1 10.0.0.2", ttl=1)
    dns.misbehave("app.test", "silence")
    ...  # dns.address is what a configuration says; dns.asked("app.test") counts
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

_MISDEEDS = ("silence", "SERVFAIL", "REFUSED", "NXDOMAIN", "truncate")


class DnsServer:
    """Who is not known is NXDOMAIN; who has no record of the kind that is asked for is NODATA."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._udp, self._tcp = _pair(host, port)
        self.address = "{}:{}".format(*self._udp.getsockname())
        self.port = int(self._udp.getsockname()[1])
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str], dns.rrset.RRset] = {}
        self._misdeeds: dict[tuple[str, str], str] = {}
        self._asked: Counter[tuple[str, str]] = Counter()
        self._threads = [
            threading.Thread(target=serve, daemon=True) for serve in (self._on_udp, self._on_tcp)
        ]
        for thread in self._threads:
            thread.start()

    def answer(self, name: str, *, ttl: int = 1, **records: str | list[str]) -> None:
        """Have these records, by kind, and no others: `A="10.0.0.1 10.0.0.2"`; a list where a
        record has spaces. It behaves again."""
        texts = {
            kind: text.split() if isinstance(text, str) else text for kind, text in records.items()
        }
        full = dns.name.from_text(name)
        made = {
            (_key(name), kind): dns.rrset.from_text(full, ttl, "IN", kind, *lines)
            for kind, lines in texts.items()
        }
        with self._lock:
            self._records = {
                key: value for key, value in self._records.items() if key[0] != _key(name)
            } | made
            self._misdeeds = {
                key: value for key, value in self._misdeeds.items() if key[0] != _key(name)
            }

    def forget(self, name: str) -> None:
        """There is nothing of that name from now on."""
        self.answer(name)

    def misbehave(self, name: str, how: str, kind: str = "") -> None:
        """`silence`, an error code, or `truncate` (then TCP has the answer); of all kinds of
        records, or of one."""
        assert how in _MISDEEDS, how
        with self._lock:
            for one in [kind] if kind else ["A", "AAAA", "SRV"]:
                self._misdeeds[_key(name), one] = how

    def asked(self, name: str, kind: str = "A", over: str = "udp") -> int:
        """How often that was asked for."""
        with self._lock:
            return self._asked[f"{_key(name)}/{over}", kind]

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knock:
            knock.sendto(b"", self._udp.getsockname())
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._udp.close()
        self._tcp.close()

    def _on_udp(self) -> None:
        while True:
            try:
                data, client = self._udp.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            reply = self._reply(data, "udp")
            if reply is not None:
                self._udp.sendto(reply, client)

    def _on_tcp(self) -> None:
        while True:
            try:
                client, _address = self._tcp.accept()
            except OSError:
                return
            client.settimeout(5)
            with client, client.makefile("rb") as file, suppress(OSError, struct.error):
                (length,) = struct.unpack("!H", file.read(2))
                reply = self._reply(file.read(length), "tcp")
                if reply is not None:
                    client.sendall(struct.pack("!H", len(reply)) + reply)

    def _reply(self, data: bytes, over: str) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = _key(str(question.name)), dns.rdatatype.to_text(question.rdtype)
        reply = dns.message.make_response(query)
        with self._lock:
            self._asked[f"{name}/{over}", kind] += 1
            misdeed = self._misdeeds.get((name, kind), "")
            found = self._records.get((name, kind)) or self._records.get((name, "CNAME"))
            known = any(key[0] == name for key in self._records)
            if found is not None:
                reply.answer.append(found)
            if found is not None and found.rdtype == dns.rdatatype.CNAME:
                target = self._records.get((_key(str(found[0].target)), kind))
                reply.answer += [target] if target is not None else []
        if misdeed == "silence":
            return None
        if misdeed == "truncate" and over == "udp":
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        elif misdeed and misdeed != "truncate":
            reply.answer.clear()
            reply.set_rcode(dns.rcode.from_text(misdeed))
        elif not known:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()


def _key(name: str) -> str:
    return name.lower().rstrip(".")


def _pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with the same port."""
    while True:
        tcp = socket.create_server((host, port))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
            return udp, tcp
        except OSError:
            tcp.close()
            udp.close()
            if port:
                raise


@contextmanager
def dns_server(host: str = "127.0.0.1", port: int = 0) -> Iterator[DnsServer]:
    """A server that runs until the end of the block."""
    server = DnsServer(host, port)
    try:
        yield server
    finally:
        server.close()
