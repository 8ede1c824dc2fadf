"""The keys of listeners and pools that say how TLS is spoken. The files that they name are read by
`control.tls`; here is only where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from spliceproxy.config import scalars
from spliceproxy.config.problems import show
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, none_if_off, required, setting

_PATHS = "Paths are absolute, or relative to the configuration file that was named at the start."


class CertificateFiles(Section):
    """Where a certificate is. Its path alone may stand for it."""

    chain: scalars.FilePath = required(
        "A PEM file: the certificate, then those between it and its root, each signed by the next "
        f"one. {_PATHS}",
        "www.pem",
    )
    key: scalars.FilePathOrNone = Field(
        None,
        description="The PEM file of its private key, not encrypted; absent: it is in `chain`.",
        examples=["www.key"],
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, raw: Any) -> Any:
        return {"chain": raw} if isinstance(raw, str) else raw

    def at(self, base: FilePath) -> CertificateFiles:
        """The same with absolute paths."""
        return _absolute(self, base, "chain", "key")

    def __str__(self) -> str:
        return self.chain if self.key is None else f"{{chain: {self.chain}, key: {self.key}}}"


def _some_certificate(files: tuple[CertificateFiles, ...]) -> tuple[CertificateFiles, ...]:
    if not files:
        raise ValueError("there is no certificate; write the path of one, or of a directory")
    return files


class ListenerTls(Section):
    """TLS that ends here. Routes match what clients say in their ClientHello, as ever; the pool
    gets what is inside. TLS 1.2 and 1.3, renegotiation refused."""

    certificates: Annotated[
        tuple[CertificateFiles, ...], OneOrMore, AfterValidator(_some_certificate)
    ] = required(
        "What clients are shown: the certificate for the name that one asks for; the first one "
        "for those that ask for none, or for a name that no certificate has. A PEM file with chain "
        "and key, or `{chain, key}`, or a directory: all its *.pem, *.crt, *.cer and *.key files, "
        "in the order of their names, where each certificate finds its key by itself (so "
        "tls.crt with tls.key, and fullchain.pem with privkey.pem), and those of authorities are "
        "left aside. Certificates of one name with keys of several kinds (RSA and ECDSA) "
        "are used together; of several with one kind the first. Files are followed: a new "
        "certificate is shown to the next client.",
        "/etc/spliceproxy/certs/",
        "[www.pem, {chain: mail.pem, key: mail.key}]",
    )
    min_version: scalars.TlsVersion = setting(
        "1.2", "The oldest version of TLS that is spoken.", example="1.3"
    )
    alpn: Annotated[tuple[scalars.Alpn, ...], OneOrMore] = setting(
        (),
        "Application protocols that the upstreams speak, the best one first: a client gets the "
        "first of them that it offers. Where it offers none of them, or there is none, none is "
        "negotiated.",
        example="[h2, http/1.1]",
    )
    client_ca: scalars.FilePathOff = setting(
        "off",
        "Clients are asked for certificates, which one of the authorities in this PEM file must "
        "have signed; `off`: they are not asked.",
        example="clients.pem",
    )
    client_certificate: scalars.OptionalOrRequired = setting(
        "required",
        "What `client_ca` means. `required`: a client without a certificate is turned away. "
        "`optional`: it is not; one that is shown is checked all the same.",
        example="optional",
    )

    def files(self) -> Iterator[CertificateFiles | str]:
        """The certificates, and the file of the authorities."""
        yield from self.certificates
        if self.client_ca is not None:
            yield self.client_ca

    def at(self, base: FilePath) -> ListenerTls:
        """The same with absolute paths."""
        certificates = tuple(one.at(base) for one in self.certificates)
        return _absolute(self, base, "client_ca").model_copy(update={"certificates": certificates})


class PoolTls(Section):
    """TLS that begins here: what goes to the upstreams is encrypted. `on` alone stands for all
    defaults."""

    ca: scalars.FilePathOff = setting(
        "off",
        "The PEM file of the authorities that may have signed the upstreams' certificates; `off`: "
        "those that this machine trusts.",
        example="ca.pem",
    )
    name: scalars.CertificateName = Field(
        None,
        description="The name that each upstream is asked for (SNI) and that its certificate must "
        "be for. Absent: the host of its address, a name or an IP address; for `srv:` the domain "
        "whose records they are (srv:_app._tcp.example.com: example.com), since the names in the "
        "answers are only as good as DNS. UNIX sockets have none: write one.",
        examples=["internal.example.com"],
    )
    verify: scalars.OnOff = setting(
        "on",
        "`off`: whoever answers is believed to be the upstream, whatever its certificate says.",
        example="off",
    )
    certificate: Annotated[CertificateFiles | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "What upstreams are shown that ask for a certificate: a PEM file with chain and key, or "
        "`{chain, key}`, or a directory with both; `off`: none.",
        example="{chain: me.pem, key: me.key}",
    )

    def at(self, base: FilePath) -> PoolTls:
        """The same with absolute paths."""
        mine = self.certificate
        certificate = None if mine is None else mine.at(base)
        return _absolute(self, base, "ca").model_copy(update={"certificate": certificate})


S = TypeVar("S", bound=Section)


def on_or_off(raw: object) -> object:
    """For a section with defaults alone: `on` is all of them, `off` is none of it."""
    if not isinstance(raw, str):
        return raw
    if raw not in ("on", "off"):
        keys = ", ".join(PoolTls.model_fields)
        raise ValueError(f"{show(raw)} is neither on nor off; write on, or keys below it: {keys}")
    return {} if raw == "on" else None


def _absolute(section: S, base: FilePath, *keys: str) -> S:
    found: Iterator[tuple[str, str | None]] = ((key, getattr(section, key)) for key in keys)
    return section.model_copy(
        update={key: str(base / path) for key, path in found if path is not None}
    )
