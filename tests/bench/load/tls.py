"""What TLS clients send: the one offer of all loads, and real ClientHellos without a client."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.programs import find

AGREED = "TLSv1.3 TLS_AES_128_GCM_SHA256"
"""What every proxy has to agree on with that offer."""

_HERE = Path(__file__).parent


def offer() -> list[str]:
    """What goes in front of a command so that it offers TLS 1.3 with one cipher and one group."""
    return [find("env", "coreutils"), f"OPENSSL_CONF={_HERE / 'openssl.cnf'}"]


def client_hello(name: str) -> bytes:
    """What OpenSSL sends first to a server of that name."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def hello_script(names: Sequence[str]) -> str:
    """A script for wrk, which sends a ClientHello for each of the names in turn.

    wrk wants HTTP from the script once, before it begins, and HTTP from the origin.
    """
    hellos = ",\n".join(f'  "{_quoted(client_hello(name))}"' for name in names)
    report = _HERE / "report.lua"
    return _SCRIPT.replace("@HELLOS@", hellos).replace("@REPORT@", str(report))


def _quoted(data: bytes) -> str:
    """The inside of a string of Lua."""
    return "".join(f"\\{byte:03d}" for byte in data)


_SCRIPT = """\
dofile("@REPORT@")
local hellos = {
@HELLOS@
}
local number = 0
request = function()
  number = number + 1
  if number == 1 then return wrk.format() end
  return hellos[number % #hellos + 1]
end
"""
