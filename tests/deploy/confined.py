"""Run a command under the restrictions of a unit, as far as that goes without systemd.

    python confined.py UNIT COMMAND...

To be started by root (of a user namespace at least) in a mount namespace of its own. Holds the
command to the unit's SystemCallFilter=, RestrictAddressFamilies=, CapabilityBoundingSet=,
MemoryDenyWriteExecute=, NoNewPrivileges=, ProtectSystem=strict and UMask=. In one thing it is
stricter than systemd: a system call that is not allowed ends the process (SIGSYS) instead of
failing, so that none goes unnoticed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

from units import Unit, system_calls

# seccomp.h of libseccomp, with which systemd makes its filters.
_KILL = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQUAL = 4
_MASKED_EQUAL = 7
_FAMILIES = range(1, 46)
_WRITE_AND_EXEC = 0x6  # PROT_WRITE | PROT_EXEC
_EXEC = 0x4

_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp; with MASKED_EQUAL `first` is the mask, else it is the value."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno() or -result, f"{what}: {result}")


def make_read_only(but: list[Path]) -> None:
    """ProtectSystem=strict: every mount is read-only, except those of the unit's directories."""
    for path in but:
        subprocess.run(["mount", "--bind", path, path], check=True)
    _set_mount(Path("/"), _AT_RECURSIVE, _MountAttributes(set=_RDONLY))
    for path in but:
        _set_mount(path, 0, _MountAttributes(clear=_RDONLY))


def _set_mount(path: Path, flags: int, wanted: _MountAttributes) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    at, name = ctypes.c_int(_AT_FDCWD), os.fsencode(path)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, at, name, flags, ctypes.byref(wanted), size)
    _checked(result, f"mount_setattr {path}")


class Filter:
    """A seccomp filter, as libseccomp(3) builds it."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, name: str, *comparisons: _Comparison) -> None:
        """What happens to a system call whose arguments fit."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # this architecture has no such call
        array = (_Comparison * len(comparisons))(*comparisons)
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        _checked(result, f"rule for {name}")

    def load(self) -> None:
        """From now on it holds, and no_new_privs as well."""
        _checked(self._library.seccomp_load(self._context), "seccomp_load")


def deny_write_execute() -> None:
    """MemoryDenyWriteExecute=, by the rules of systemd."""
    rules = Filter(_ALLOW)
    denied = _ERRNO | errno.EPERM
    rules.rule(denied, "mmap", _Comparison(2, _MASKED_EQUAL, _WRITE_AND_EXEC, _WRITE_AND_EXEC))
    for name in ("mprotect", "pkey_mprotect"):
        rules.rule(denied, name, _Comparison(2, _MASKED_EQUAL, _EXEC, _EXEC))
    rules.load()


def allow_only(calls: set[str], families: set[int]) -> None:
    """SystemCallFilter=, and RestrictAddressFamilies= for socket(2)."""
    rules = Filter(_KILL)
    for name in calls - {"socket"}:
        rules.rule(_ALLOW, name)
    for family in _FAMILIES:
        action = _ALLOW if family in families else _ERRNO | errno.EAFNOSUPPORT
        rules.rule(action, "socket", _Comparison(0, _EQUAL, family, 0))
    rules.load()


def close_the_file_system(unit: Unit) -> None:
    """What needs rights, before they are given up."""
    assert unit.one("ProtectSystem") == "strict"
    make_read_only(
        [Path("/run") / unit.one("RuntimeDirectory"), Path("/var/log") / unit.one("LogsDirectory")]
    )


def with_capabilities_of(unit: Unit) -> list[str]:
    """What stands in front of a command to leave it no capabilities but the unit's.

    It also ends the command with its parent, whatever happens to that.
    """
    kept = [f"+{name.removeprefix('CAP_').lower()}" for name in unit.words("CapabilityBoundingSet")]
    bounds = ",".join(["-all", *kept])
    return [
        "setpriv",
        f"--bounding-set={bounds}",
        "--inh-caps=-all",
        "--no-new-privs",
        "--pdeathsig=KILL",
    ]


def confine(unit: Unit) -> None:
    """What needs no rights, and would be in the way of the steps before."""
    assert unit.one("MemoryDenyWriteExecute") == "yes"
    assert unit.one("NoNewPrivileges") == "yes"
    allowed = system_calls(unit)
    families = {int(getattr(socket, name)) for name in unit.words("RestrictAddressFamilies")}
    os.umask(int(unit.one("UMask"), 8))
    deny_write_execute()
    allow_only(allowed, families)


def main(arguments: list[str]) -> None:
    """Become the command, in two steps: setpriv(1) goes between them."""
    if arguments[0] == "--confine":
        confine(Unit(Path(arguments[1])))
        command = arguments[2:]
    else:
        unit = Unit(Path(arguments[0]))
        close_the_file_system(unit)
        command = [*with_capabilities_of(unit), sys.executable, __file__, "--confine", *arguments]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
