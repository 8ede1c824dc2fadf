"""control/tls/pem.py: what stands in PEM files, and what is wrong with it, in one line each."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from harness.issued import authority, chain_of, key_of, openssl, self_signed

from spliceproxy.control.tls.pem import Certificate, pair, read_authorities, read_content


def certificate(data: bytes) -> Certificate:
    """The certificate in the bytes of one file."""
    content = read_content(data)
    assert content.chain is not None, "no certificate"
    return pair(content.chain, content.keys)


def wrong(data: bytes) -> str:
    with pytest.raises(ValueError, match="; ") as caught:
        certificate(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_chain_and_key_are_read_in_any_order_and_with_text_around_them() -> None:
    issued = authority().issue_cert("www.example.com", "*.Example.com", "10.0.0.1")
    for data in (chain_of(issued) + key_of(issued), key_of(issued) + chain_of(issued)):
        found = certificate(b"Bag Attributes\n  friendlyName: caf\xe9\n" + data + b"trailer")
        assert found.chain.names == ("www.example.com", "*.example.com")
        assert (found.chain.kind, len(found.chain.blocks)) == ("ec", 1)
        assert found.pem.encode().split() == (chain_of(issued) + key_of(issued)).split()


def test_the_intermediate_certificates_stay_behind_their_own_in_order() -> None:
    issued = authority().create_child_ca().create_child_ca().issue_cert("a.example.com")
    found = certificate(chain_of(issued) + key_of(issued))
    assert len(found.chain.blocks) == 3
    assert found.pem.encode().split() == (chain_of(issued) + key_of(issued)).split()


def test_when_it_ends_and_of_which_kind_its_key_is() -> None:
    end = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    issued = authority().issue_cert("a.b", not_after=end, key_type=trustme.KeyType.RSA)
    found = certificate(chain_of(issued) + key_of(issued))
    assert (found.chain.not_after, found.chain.kind) == (end, "rsa")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rsa", ["-newkey", "rsa:2048"]),
        ("ec", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("ed25519", ["-newkey", "ed25519"]),
    ],
)
def test_what_openssl_makes_is_used_with_its_common_name(
    tmp_path: Path, kind: str, options: list[str]
) -> None:
    chain, key = self_signed(tmp_path, "a", *options, "-subj", "/O=x/CN=Www.Example.com")
    found = certificate(chain.read_bytes() + key.read_bytes())
    assert (found.chain.kind, found.chain.names) == (kind, ("www.example.com",))


def test_old_forms_of_keys_are_read(tmp_path: Path) -> None:
    """`openssl ecparam -genkey` writes the parameters before the key, in a form of its own."""
    key = openssl("ecparam", "-genkey", "-name", "prime256v1")
    assert b"EC PARAMETERS" in key
    assert b"BEGIN EC PRIVATE KEY" in key
    (tmp_path / "k").write_bytes(key)
    chain = openssl("req", "-x509", "-key", tmp_path / "k", "-subj", "/CN=a.example.com")
    assert certificate(key + chain).chain.names == ("a.example.com",)


def test_a_common_name_is_not_looked_at_where_there_are_other_names() -> None:
    issued = authority().issue_cert("a.example.com", common_name="b.example.com")
    assert certificate(chain_of(issued) + key_of(issued)).chain.names == ("a.example.com",)


def test_what_nobody_can_ask_for_is_no_name() -> None:
    issued = authority().issue_cert("10.0.0.1", common_name="Head Office, 2nd floor")
    assert certificate(chain_of(issued) + key_of(issued)).chain.names == ()


def test_no_part_of_a_key_is_ever_shown() -> None:
    issued = authority().issue_cert("a.example.com")
    found = read_content(chain_of(issued) + key_of(issued))
    assert "PRIVATE" not in repr(found)
    assert "PRIVATE" not in repr(certificate(chain_of(issued) + key_of(issued)))


def test_a_file_with_nothing_in_it_and_one_that_is_no_pem() -> None:
    assert wrong(b" \n") == "the file is empty; write a certificate in PEM into it"
    assert wrong(b"hello").startswith("there is no certificate in PEM; it begins with -----BEGIN")
    issued = chain_of(authority().issue_cert("a.b"))
    assert "it is binary; openssl x509 -inform DER" in wrong(
        openssl("x509", "-outform", "DER", input=issued)
    )


def test_what_was_cut_off_is_not_whole() -> None:
    issued = authority().issue_cert("a.b")
    chain, key = chain_of(issued), key_of(issued)
    middle = chain.replace(b"MII", b"MI", 1)
    assert wrong(middle + key) == "certificate 1 of the file cannot be read; is the file whole?"
    broken = key.splitlines()
    assert wrong(chain + b"\n".join([broken[0], broken[-1]])) == (
        "the private key cannot be read; is the file whole?"
    )
    assert wrong(chain + key[:-30]).startswith("it has no private key; ")


def test_a_key_that_belongs_to_another_certificate() -> None:
    one, other = authority().issue_cert("a.b"), authority().issue_cert("a.b")
    assert wrong(chain_of(one) + key_of(other)).startswith("the key belongs to another certificate")


def test_a_chain_in_the_wrong_order() -> None:
    issued = authority().create_child_ca().issue_cert("a.b")
    own, above = (blob.bytes() for blob in issued.cert_chain_pems)
    assert wrong(above + own + key_of(issued)) == (
        "the key belongs to certificate 2 of the file; "
        "the server's own certificate must be the first one"
    )


@pytest.mark.parametrize("form", [[], ["-traditional"]])
def test_an_encrypted_key_is_an_error_and_asks_nobody_for_a_password(form: list[str]) -> None:
    issued = authority().issue_cert("a.b")
    locked = openssl("pkey", "-aes128", "-passout", "pass:secret", *form, input=key_of(issued))
    assert wrong(chain_of(issued) + locked) == (
        "the private key is encrypted; openssl pkey -in KEY -out NEW takes the password away"
    )


def test_a_certificate_that_openssl_refuses_is_one_that_no_worker_is_told(tmp_path: Path) -> None:
    chain, key = self_signed(tmp_path, "a", "-newkey", "rsa:1024", "-subj", "/CN=a.b")
    assert wrong(chain.read_bytes() + key.read_bytes()) == (
        "OpenSSL refuses the certificate: the key is too short; make one of 2048 bits or more"
    )


def test_authorities_are_read_and_keys_beside_them_are_left_aside() -> None:
    one, other = trustme.CA(), authority()
    data = one.cert_pem.bytes() + b"text\n" + one.private_key_pem.bytes() + other.cert_pem.bytes()
    assert (
        read_authorities(data).encode().split()
        == (one.cert_pem.bytes() + other.cert_pem.bytes()).split()
    )
    with pytest.raises(ValueError, match="there is no certificate in PEM"):
        read_authorities(one.private_key_pem.bytes())
    with pytest.raises(ValueError, match="OpenSSL refuses the authorities: "):
        read_authorities(one.cert_pem.bytes().replace(b"M", b"N"))


def test_whatever_the_bytes_are_there_is_a_certificate_or_one_line_of_what_is_wrong(
    seed: int,
) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    issued = authority().create_child_ca().issue_cert("a.example.com", "*.b.c", "10.0.0.1")
    blocks = [blob.bytes() for blob in (*issued.cert_chain_pems, issued.private_key_pem)]
    certificates, errors = 0, []
    for _ in range(1000):
        spoilt = list(blocks)
        at = dice.randrange(len(blocks))
        spoilt[at] = with_other_bytes(blocks[at], dice)
        try:
            certificate(b"".join(spoilt))
        except (ValueError, AssertionError) as error:
            errors.append(str(error))
        else:
            certificates += 1
    assert certificates > 0
    assert errors
    assert not [text for text in errors if "\n" in text]


def with_other_bytes(block: bytes, dice: random.Random) -> bytes:
    """The PEM of almost the same thing: what is in it has other bytes, or some are gone."""
    first, *lines, last = block.strip().splitlines()
    data = bytearray(base64.b64decode(b"".join(lines)))
    for _ in range(dice.choice((1, 1, 3))):
        at = dice.randrange(len(data))
        if dice.random() < 0.5:
            data[at] = dice.randrange(256)
        else:
            del data[at : at + dice.randrange(1, 4)]
    return b"\n".join((first, base64.b64encode(bytes(data)), last, b""))
