"""${NAME} in values: expanded after parsing, so that a variable cannot change the structure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spliceproxy.config.problems import show

_DOLLAR = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}$]*))?\}"
    r"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*)?)"
)


class VariableError(ValueError):
    """A value's variable makes no sense; `fragment` is the part of the value that is wrong."""

    def __init__(self, fragment: str, text: str) -> None:
        super().__init__(text)
        self.fragment = fragment


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ${NAME}, ${NAME:-default} (where NAME is unset or empty) and $$ (a dollar sign).

    Raises VariableError where a variable is unset or a dollar sign stands alone.
    """
    return _DOLLAR.sub(lambda match: _value(match, env), text) if "$" in text else text


def _value(match: re.Match[str], env: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    if name := match["name"]:
        value = env.get(name)
        if match["default"] is not None:
            return value or match["default"]
        if value is None:
            raise VariableError(
                match[0], f"${{{name}}} is not set; set {name}, or write ${{{name}:-default}}"
            )
        return value
    if bare := match["bare"]:
        raise VariableError(
            match[0], f"{show('$' + bare)} is no variable; write ${{{bare}}}, or $$ for a dollar"
        )
    raise VariableError(
        match[0], "a dollar sign alone; write ${NAME} or ${NAME:-default}, or $$ for a dollar"
    )
