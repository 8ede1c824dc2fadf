"""systemd's unit files as the tests read them (systemd.unit(5), systemd.exec(5))."""

from __future__ import annotations

import subprocess
from pathlib import Path

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"


class Unit:
    """The assignments of one unit file: each key with its values, in order."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._values: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if line and line[0] not in "#[":
                key, _, value = line.partition("=")
                self._values.setdefault(key, []).append(value)

    def all(self, key: str) -> list[str]:
        """The values of a key that may stand there several times."""
        return self._values.get(key, [])

    def one(self, key: str) -> str:
        """The value of a key that stands there once."""
        (value,) = self.all(key)
        return value

    def words(self, key: str) -> list[str]:
        """The words of all values of a key."""
        return " ".join(self.all(key)).split()


def system_calls(unit: Unit) -> set[str]:
    """The names that SystemCallFilter= leaves: what the first lines allow, without the `~` ones."""
    allowed: set[str] = set()
    for value in unit.all("SystemCallFilter"):
        named = _members(value.removeprefix("~").split())
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def _members(names: list[str]) -> set[str]:
    """The system calls of `names`, of which those with an @ are sets, as systemd itself knows."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if not name.startswith("@"):
            found.add(name)
            continue
        shown = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = [line.strip() for line in shown.splitlines()[1:]]
        todo += [line for line in lines if line and not line.startswith("#")]
    return found
