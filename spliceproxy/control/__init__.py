"""The supervisor's wing: it binds, starts and watches, and never touches a payload byte."""

from spliceproxy.control.start import run

__all__ = ["run"]
