"""What every policy can do. Upstreams are numbers here: indices into the weights it was given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection


class Policy(ABC):
    """Says whose turn it is. One of weight 0 is never chosen."""

    @abstractmethod
    def choose(self, excluded: Collection[int] = (), key: bytes = b"", /) -> int | None:
        """The next index that is not in `excluded`, or None where there is none.

        `key` tells clients apart, for a policy that sends each of them to a place of its own.
        """

    @abstractmethod
    def set_weight(self, index: int, weight: int) -> None:
        """Change one weight; 0 takes it out of the running, another one brings it back."""

    def changed(self, index: int) -> None:  # noqa: B027  (most policies count no sessions)
        """The live sessions of `index` are fewer than before."""
