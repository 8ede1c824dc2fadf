"""What a section of the configuration is made of, and how its keys are written down."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


def setting(default: str | tuple[()], meaning: str, *, example: str) -> Any:
    """A key with a default, which is written as users write it."""
    return Field(default, description=meaning, examples=[example])


def required(meaning: str, *examples: str) -> Any:
    """A key that must be there."""
    return Field(description=meaning, examples=list(examples))


def section(kind: type[BaseModel], meaning: str, *examples: str) -> Any:
    """A key with keys below it, which all have defaults."""
    return Field(default_factory=kind, description=meaning, examples=list(examples) or None)


def none_if_off(raw: object) -> object:
    """For a section that may be `off`."""
    return None if raw == "off" else raw


class Section(BaseModel):
    """A mapping of the configuration. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    inherits: ClassVar[str] = ""
    """The section, written `a.b`, that gives the values of keys which are absent here."""
