"""What stands in PEM files (RFC 7468): bytes in, values out. No file, no clock.

Each function raises ValueError("what is wrong; what would be right"), in which no part of a key
ever stands.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from spliceproxy.relay.tls_context import load_chain
from spliceproxy.wire.host_name import read_host_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,40})-----\s.*?-----END (?P=label)-----", re.DOTALL
)
_PLACE = re.compile(r"^\[.*\] | \(_ssl.*\)$")
"""What `ssl` puts around OpenSSL's own words."""
_DER = b"\x30"
"""The first byte of a certificate, a key or a PKCS #12 file that is not PEM."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key."""

    pem: str = field(repr=False)
    public: bytes
    """SubjectPublicKeyInfo: what the certificate that it belongs to has."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A certificate and what stands behind it in its file."""

    blocks: tuple[str, ...]
    """PEM of each certificate, its own first."""
    publics: tuple[bytes, ...]
    """The public key of each."""
    names: tuple[str, ...]
    """In lower case: a name, or `*.` and a name."""
    kind: str
    """Of its key, as OpenSSL keeps one certificate for each: rsa, ec, ed25519, ed448."""
    not_before: datetime
    not_after: datetime
    is_authority: bool
    """Whether it is there to sign others."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one file holds; either may be missing."""

    chain: Chain | None
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain with its key, which OpenSSL takes."""

    chain: Chain
    pem: str = field(repr=False)
    """The chain, then the key."""


def read_content(data: bytes) -> Content:
    """The certificates and keys in the bytes of a file. Other blocks are left aside."""
    certificates, keys = [], []
    for match in _BLOCK.finditer(data):
        label, block = match["label"], match[0]
        if label in (b"CERTIFICATE", b"X509 CERTIFICATE"):
            certificates.append(block)
        elif label == b"PRIVATE KEY" or label.endswith(b" PRIVATE KEY"):
            keys.append(block)
    if not certificates and not keys:
        raise ValueError(_nothing(data))
    return Content(_chain(certificates) if certificates else None, tuple(map(_key, keys)))


def read_authorities(data: bytes) -> str:
    """The certificates in the bytes of a file, as PEM."""
    blocks = [match[0] for match in _BLOCK.finditer(data) if match["label"] == b"CERTIFICATE"]
    if not blocks:
        raise ValueError(_nothing(data))
    pem = _join(block.decode("ascii", "replace") for block in blocks)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(_refused("the authorities", error)) from None
    return pem


def pair(chain: Chain, keys: Sequence[Key]) -> Certificate:
    """The chain with the key among `keys` that is its own, tried as a worker will use it."""
    key = own_key(chain, keys)
    if key is None:
        raise ValueError(_no_key(chain, keys))
    pem = _join((*chain.blocks, key.pem))
    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
    except ssl.SSLError as error:
        raise ValueError(_refused("the certificate", error)) from None
    return Certificate(chain, pem)


def own_key(chain: Chain, keys: Iterable[Key]) -> Key | None:
    """The key that belongs to the certificate; None: there is none."""
    return next((key for key in keys if key.public == chain.publics[0]), None)


def shorten(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, for a line of the log."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _nothing(data: bytes) -> str:
    if not data.strip():
        return "the file is empty; write a certificate in PEM into it"
    if data.startswith(_DER):
        right = "openssl x509 -inform DER makes PEM of a certificate, openssl pkcs12 of a .p12 file"
        return f"there is no certificate in PEM, it is binary; {right}"
    return "there is no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"


def _no_key(chain: Chain, keys: Sequence[Key]) -> str:
    if not keys:
        return "it has no private key; put it into the same file, or write {chain: …, key: …}"
    public = {key.public for key in keys}
    others = [number for number, one in enumerate(chain.publics) if one in public]
    if others:
        place = f"certificate {others[0] + 1} of the file"
        return f"the key belongs to {place}; the server's own certificate must be the first one"
    return "the key belongs to another certificate; are both from the same request?"


def _key(block: bytes) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # Whether the numbers of an RSA key are primes takes 60 ms, and OpenSSL does not ask either.
        key: PrivateKeyTypes = load_pem_private_key(
            block, None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        right = "openssl pkey -in KEY -out NEW takes the password away"
        raise ValueError(f"the private key is encrypted; {right}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("the private key cannot be read; is the file whole?") from None
    return Key(block.decode("ascii", "replace"), _spki(key.public_key()))


def _chain(blocks: Sequence[bytes]) -> Chain:
    from cryptography import x509

    certificates = []
    for number, block in enumerate(blocks, 1):
        try:
            certificates.append(x509.load_pem_x509_certificate(block))
        except Exception:  # a wrong version, for example, is no ValueError
            wrong = f"certificate {number} of the file cannot be read"
            raise ValueError(f"{wrong}; is the file whole?") from None
    first = certificates[0]
    try:
        publics = tuple(_spki(one.public_key()) for one in certificates)
        names, is_authority = _names(first), _is_authority(first)
    except Exception as error:  # of many classes, some of which are no ValueError
        words = " ".join(str(error).split())
        raise ValueError(f"the certificate cannot be used: {words}; have it made anew") from None
    return Chain(
        blocks=tuple(block.decode("ascii", "replace") for block in blocks),
        publics=publics,
        names=names,
        kind=_kind(first.public_key()),
        not_before=first.not_valid_before_utc,
        not_after=first.not_valid_after_utc,
        is_authority=is_authority,
    )


def _spki(key: PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _kind(key: PublicKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    kinds = {
        "rsa": rsa.RSAPublicKey,
        "ec": ec.EllipticCurvePublicKey,
        "ed25519": ed25519.Ed25519PublicKey,
        "ed448": ed448.Ed448PublicKey,
    }
    return next((kind for kind, of in kinds.items() if isinstance(key, of)), "other")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names that it is for; the common name where it has none (RFC 6125, 6.4.4)."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        texts = found.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        texts = []
    if not texts:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        texts = [str(one.value) for one in common]
    return tuple(dict.fromkeys(name for text in texts if (name := _name(text))))


def _name(text: str) -> str:
    """As SNI is compared with; empty where nobody can ask for it."""
    star = "*." if text.startswith("*.") else ""
    name = read_host_name(text.removeprefix("*.").encode("ascii", "replace"))
    return star + name if name else ""


def _is_authority(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def _refused(what: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or _PLACE.sub("", str(error))
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"):
        return f"OpenSSL refuses {what}: the key is too short; make one of 2048 bits or more"
    if reason in ("CA_MD_TOO_WEAK", "EE_MD_TOO_WEAK", "MD_TOO_WEAK"):
        return f"OpenSSL refuses {what}: it is signed with a weak digest; have it signed anew"
    words = reason.lower().replace("_", " ")
    return f"OpenSSL refuses {what}: {words}; openssl x509 -in FILE -text shows what it holds"


def _join(blocks: Iterable[str]) -> str:
    return "".join(f"{block}\n" for block in blocks)
