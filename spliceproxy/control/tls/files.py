"""The files of certificates: which there are, and what stands in them.

A look reads all of them, and makes values only of what was not the same at the look before. What
was good once stays where it is broken now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.control.tls import pem
from spliceproxy.control.tls.pem import Certificate, Chain, Content, Key

if TYPE_CHECKING:
    from spliceproxy.config import CertificateFiles, Config, Problem

_SUFFIXES = (".pem", ".crt", ".cer", ".key")
"""What is read of a directory."""
_MAX_BYTES = 4 * 1024 * 1024
"""Bytes of one file at most: all authorities of the world are a quarter of a megabyte."""

Where = tuple[str | int, ...]
"""The keys that lead to a value of the configuration."""
Named = Mapping[str, Certificate]
"""The certificates of one entry of the configuration, by their files."""


@dataclass(slots=True)
class Known:
    """What one look brought, with what was good before in the place of what is broken."""

    entries: dict[CertificateFiles, Named] = field(default_factory=dict)
    authorities: dict[str, str] = field(default_factory=dict)
    """Path → PEM."""
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)
    """What is broken, where something else could stand in: by file and text."""
    contents: dict[bytes, Content] = field(default_factory=dict, repr=False)
    """What was made of the bytes of files."""
    pairs: dict[tuple[Chain, tuple[Key, ...]], Certificate] = field(
        default_factory=dict, repr=False
    )
    watched: dict[CertificateFiles | str, set[Path]] = field(default_factory=dict)
    """For each entry, and each path of authorities, the files whose change may matter to it."""

    def keep_only(self, config: Config) -> None:
        """Forget what `config` does not name."""
        entries = {files for files, _ in certificate_files(config)}
        paths = {path for path, _ in authority_files(config)}
        self.entries = {key: value for key, value in self.entries.items() if key in entries}
        self.authorities = {key: value for key, value in self.authorities.items() if key in paths}
        kept = self.entries.keys() | self.authorities.keys()
        self.watched = {key: value for key, value in self.watched.items() if key in kept}


def look(config: Config, before: Known) -> Known:
    """Read the files that `config` names; what others name is as `before`.

    Raises ConfigError where one is missing or wrong of which nothing was good before.
    """
    from spliceproxy.config import ConfigError

    one = _Look(before)
    for files, where in certificate_files(config):
        if files not in one.now.entries:
            one.read_entry(files, where)
    for path, where in authority_files(config):
        if path not in one.now.authorities:
            one.read_authorities(path, where)
    if one.fatal:
        raise ConfigError(one.fatal)
    now = one.now
    now.entries = before.entries | now.entries
    now.authorities = before.authorities | now.authorities
    now.watched = before.watched | now.watched
    return now


def certificate_files(config: Config) -> Iterator[tuple[CertificateFiles, Where]]:
    """The certificates that `config` names, and where it does."""
    for name, listener in config.listeners.items():
        if listener.tls is not None:
            for number, files in enumerate(listener.tls.certificates):
                yield files, ("listeners", name, "tls", "certificates", number)
    for name, pool in config.pools.items():
        if pool.tls is not None and pool.tls.certificate is not None:
            yield pool.tls.certificate, ("pools", name, "tls", "certificate")


def authority_files(config: Config) -> Iterator[tuple[str, Where]]:
    """The files of authorities that `config` names, and where it does."""
    for name, listener in config.listeners.items():
        if listener.tls is not None and listener.tls.client_ca is not None:
            yield listener.tls.client_ca, ("listeners", name, "tls", "client_ca")
    for name, pool in config.pools.items():
        if pool.tls is not None and pool.tls.ca is not None:
            yield pool.tls.ca, ("pools", name, "tls", "ca")


class _Look:
    """One look at the files."""

    def __init__(self, before: Known) -> None:
        self._before = before
        self._watched: set[Path] = set()
        """What is to be watched of the entry that is read."""
        self.now = Known()
        self.fatal: list[Problem] = []

    def read_entry(self, files: CertificateFiles, where: Where) -> None:
        """One entry of the configuration: a certificate, or a directory of them."""
        good = self._before.entries.get(files)
        self._watched = self.now.watched[files] = set()
        if files.key is None and _is_directory(Path(files.chain)):
            found = self._directory(Path(files.chain), where, good)
        else:
            found = self._single(files, where, good)
        self.now.entries[files] = found

    def read_authorities(self, path: str, where: Where) -> None:
        good = self._before.authorities.get(path)
        self.now.watched[path] = {Path(path)}
        try:
            self.now.authorities[path] = pem.read_authorities(self._bytes(Path(path)))
        except ValueError as error:
            self._tell(path, where, error, good is not None)
            self.now.authorities[path] = good or ""

    def _single(self, files: CertificateFiles, where: Where, good: Named | None) -> Named:
        """The certificate at `files`."""
        file = files.chain
        self._watched |= {Path(path) for path in (files.chain, files.key) if path}
        try:
            content = self._content(Path(file))
            if content.chain is None:
                raise ValueError("there is only a key in it; write the certificate's file as chain")
            chain, keys = content.chain, content.keys
            if files.key is not None:
                file = files.key
                keys = self._content(Path(file)).keys
                if not keys:
                    raise ValueError("there is no private key in it; name the file that has it")
            return {files.chain: self._pair(chain, keys)}
        except ValueError as error:
            self._tell(file, where, error, good is not None)
            return good or {}

    def _directory(self, directory: Path, where: Where, good: Named | None) -> Named:
        """The certificates in a directory; each finds its key in any of the files there."""
        contents: dict[str, Content] = {}
        broken: set[str] = set()
        # The pattern stands for files that are not there yet: so the directory is watched.
        self._watched |= {directory, directory / "*.pem"}
        try:
            paths = sorted(path for path in directory.iterdir() if _is_meant(path.name))
        except OSError as error:
            self._tell(str(directory), where, f"cannot be read: {error.strerror}", good is not None)
            return good or {}
        for path in paths:
            self._watched.add(path)
            try:
                contents[str(path)] = self._content(path)
            except ValueError as error:
                broken.add(str(path))
                self._tell(str(path), where, error, good is not None)
        found = self._match(contents, broken, where, good)
        if not found and not broken:
            text = f"there is no certificate in it; put *{_SUFFIXES[0]} or *{_SUFFIXES[1]} there"
            self._tell(str(directory), where, text, good is not None)
        return found or good or {}

    def _match(
        self, contents: Mapping[str, Content], broken: set[str], where: Where, good: Named | None
    ) -> Named:
        keys = tuple(key for content in contents.values() for key in content.keys)
        own: dict[str, Chain] = {}
        alone: dict[str, Chain] = {}
        for path, content in contents.items():
            chain = content.chain
            if chain is not None:
                (own if pem.own_key(chain, keys) else alone)[path] = chain
        found: dict[str, Certificate] = {}
        for path in _fullest(own):
            try:
                found[path] = self._pair(own[path], keys)
            except ValueError as error:
                broken.add(path)
                self._tell(path, where, error, good is not None)
        for path, chain in alone.items():
            if not chain.is_authority:
                broken.add(path)
                text = "no file beside it has its private key; put the key there, not encrypted"
                self._tell(path, where, text, good is not None)
        found |= {path: good[path] for path in broken if good and path in good}
        return dict(sorted(found.items()))

    def _content(self, path: Path) -> Content:
        data = self._bytes(path)
        content = self.now.contents.get(data) or self._before.contents.get(data)
        if content is None:
            content = pem.read_content(data)
        self.now.contents[data] = content
        return content

    def _pair(self, chain: Chain, keys: tuple[Key, ...]) -> Certificate:
        own = tuple(key for key in keys if key.public == chain.publics[0])[:1] or keys
        of = chain, own
        found = self.now.pairs.get(of) or self._before.pairs.get(of)
        if found is None:
            found = pem.pair(chain, own)
        self.now.pairs[of] = found
        return found

    def _bytes(self, path: Path) -> bytes:
        from spliceproxy.config import ConfigError
        from spliceproxy.config.files import read_bytes

        try:
            data = read_bytes(path, _MAX_BYTES)
        except ConfigError as error:
            raise ValueError(error.problems[0].text) from None
        if len(data) > _MAX_BYTES:
            raise ValueError(f"is larger than {_MAX_BYTES >> 20} MiB; is this a certificate?")
        return data

    def _tell(self, file: str, where: Where, error: ValueError | str, has_good: bool) -> None:
        from spliceproxy.config import Problem

        problem = Problem(file, where, str(error))
        if has_good:
            self.now.problems[file, problem.text] = problem
        else:
            self.fatal.append(problem)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # of a directory above it, into which this user may not look
        return False


def _is_meant(name: str) -> bool:
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def _fullest(chains: Mapping[str, Chain]) -> list[str]:
    """Each certificate once, with the longest chain: certbot writes cert.pem beside
    fullchain.pem."""
    best: dict[str, str] = {}
    for path, chain in chains.items():
        other = best.get(chain.blocks[0])
        if other is None or len(chain.blocks) > len(chains[other].blocks):
            best[chain.blocks[0]] = path
    return list(best.values())
