"""`python -m spliceproxy.config.reference` prints the reference of the configuration language."""

from __future__ import annotations

from spliceproxy.config.markdown import reference

if __name__ == "__main__":
    print(reference(), end="")
