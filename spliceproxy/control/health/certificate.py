"""When a certificate expires, out of its DER form (RFC 5280, section 4.1).

`ssl` gives the decoded certificate only where it was verified, which most checks do not: they have
to reach the upstream, not to trust it.
"""

from __future__ import annotations

from datetime import UTC, datetime

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18


def expiry(der: bytes) -> datetime:
    """The end of its validity. Raises ValueError where `der` is no certificate."""
    certificate = _Reader(der).enter(_SEQUENCE)
    fields = certificate.enter(_SEQUENCE)
    if fields.tag() == _VERSION:
        fields.take()
    for _ in ("serialNumber", "signature", "issuer"):
        fields.take()
    validity = fields.enter(_SEQUENCE)
    validity.take()
    tag, text = validity.take()
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("not a time where a certificate has the end of its validity")
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year, from 1950 on
        digits = ("20" if digits < "5" else "19") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


class _Reader:
    """Reads one level of DER: a tag, a length, and so many bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def tag(self) -> int:
        return self._byte(self._at)

    def take(self) -> tuple[int, bytes]:
        """The next tag and what it holds."""
        tag, length, start = self.tag(), self._byte(self._at + 1), self._at + 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(self._data[start : start + size])
            start += size
        if start + length > len(self._data):
            raise ValueError("a certificate that is cut short")
        self._at = start + length
        return tag, self._data[start : self._at]

    def enter(self, wanted: int) -> _Reader:
        """What the next tag holds, to be read by itself."""
        tag, inner = self.take()
        if tag != wanted:
            raise ValueError(f"tag {tag:#x} where a certificate has {wanted:#x}")
        return _Reader(inner)

    def _byte(self, at: int) -> int:
        if at >= len(self._data):
            raise ValueError("a certificate that is cut short")
        return self._data[at]
