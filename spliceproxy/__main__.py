"""`python -m spliceproxy` is the command `spliceproxy`."""

from __future__ import annotations

from spliceproxy.cli import main

main()
