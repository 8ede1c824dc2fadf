"""The errors that a user meets. Each is one line that says what, where, and what would be right."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h, which systemd's RestartPreventExitStatus= knows


class SpliceproxyError(Exception):
    """Something that ends the command; `str()` is the text for standard error.

    `exit_code` is what the process ends with.
    """

    exit_code = EXIT_FAILED


class UsageError(SpliceproxyError):
    """The command line asks for something that makes no sense."""

    exit_code = EXIT_USAGE


class BindError(SpliceproxyError):
    """A listening socket could not be had: address in use, missing capability, no such address."""


class IpcError(SpliceproxyError):
    """A message between supervisor and worker was not understood."""


class LostFdError(IpcError):
    """A message came without its fds: this process has as many as it may."""
