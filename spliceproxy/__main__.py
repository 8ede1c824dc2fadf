"""`python -m spliceproxy` is the command `spliceproxy`."""

from spliceproxy.cli import main

main()
