"""What a flow says of itself: what a turn of it came to, and how it ended in the end."""

from __future__ import annotations

from typing import Final

# Verdicts of a turn.
DRY: Final = 0
"""The source has nothing; the next event brings more."""
BLOCKED: Final = 1
"""The destination is full; what it did not take is held."""
AGAIN: Final = 2
"""There is more, but others wait: call `move` once more when they had their turn."""
OVER: Final = 3
"""The flow has ended, and `end` says how."""
PAUSED: Final = 4
"""There is more, but not yet: mute the source, a timer brings the next turn."""

# Ends of a flow.
RUNNING: Final = 0
FINISHED: Final = 1
"""FIN from the source, everything before it delivered."""
BROKEN_SOURCE: Final = 2
"""The source failed; what it had sent before is delivered."""
BROKEN_DESTINATION: Final = 3
"""The destination failed; what was held for it is gone."""
ABANDONED: Final = 4
"""Ended from outside: its destination is known to be dead, or the session was ended."""
