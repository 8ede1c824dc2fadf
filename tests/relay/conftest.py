"""What the tests of TLS in this directory share."""

from __future__ import annotations

from tls_peers import closed_sockets as closed_sockets
