"""How amounts are written for people: three figures, and a unit."""

from __future__ import annotations


def duration_text(value: object) -> str:
    """Milliseconds, three figures: `0.41ms`, `12ms`, `3.2s`, `5m07s`, `2h15m`, `3d04h`."""
    milliseconds = float(value) if isinstance(value, (int, float)) else 0.0
    if milliseconds < 0.005:
        return "<0.01ms"
    if milliseconds < 1000:
        return f"{milliseconds:.2f}ms" if milliseconds < 10 else f"{milliseconds:.0f}ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m{int(seconds % 60):02d}s"
    hours = minutes // 60
    if hours < 24:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def size_text(value: object) -> str:
    """Bytes in the largest unit that leaves a whole part: `999B`, `1.5KiB`, `3.2GiB`."""
    size = float(value) if isinstance(value, (int, float)) else 0.0
    if size < 1024:
        return f"{size:.0f}B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f}{unit}"
    return f"{size / 1024:.1f}TiB"
