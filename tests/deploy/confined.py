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
import os
import socket
import subprocess
import sys
from pathlib import Path

from units import Unit, system_calls

# seccomp.h of libseccomp, with which systemd makes its filters.
_KILL = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO_EAFNOSUPPORT = 0x00050000 | 97
_EQUAL = 4
_FAMILIES = range(1, 46)

_PR_SET_MDWE = 65  # linux/prctl.h, Linux 6.3
_MDWE_REFUSE_EXEC_GAIN = 1
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("unused", ctypes.c_uint64),
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


def filter_system_calls(allowed: set[str], families: set[int]) -> None:
    """Load the filter; it also sets no_new_privs."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_KILL)))

    def rule(action: int, number: int, *comparisons: _Comparison) -> None:
        array = (_Comparison * len(comparisons))(*comparisons)
        count = ctypes.c_uint(len(comparisons))
        action_, number_ = ctypes.c_uint32(action), ctypes.c_int(number)
        result = seccomp.seccomp_rule_add_array(context, action_, number_, count, array)
        _checked(result, f"rule for system call {number}")

    numbers = {name: seccomp.seccomp_syscall_resolve_name(name.encode()) for name in allowed}
    socket_number = numbers.pop("socket")
    for number in numbers.values():
        if number >= 0:  # others do not exist on this architecture
            rule(_ALLOW, number)
    for family in _FAMILIES:
        action = _ALLOW if family in families else _ERRNO_EAFNOSUPPORT
        rule(action, socket_number, _Comparison(0, _EQUAL, family, 0))
    _checked(seccomp.seccomp_load(context), "seccomp_load")


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
    _checked(_libc.prctl(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN, 0, 0, 0), "PR_SET_MDWE")
    filter_system_calls(allowed, families)


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
