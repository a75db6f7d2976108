"""Files of certificates and keys that a configuration names: they can be used, or the file says where."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from fastgw.config import loads
from fastgw.errors import ConfigError

LISTENER = "fastgw:\n  tls:\n    certificate: chain.pem\n    key: key.pem\nservices: []\n"


@pytest.fixture(scope="module")
def issued() -> trustme.LeafCert:
    return trustme.CA().issue_cert("gw.test")


@pytest.fixture
def base(tmp_path: Path, issued: trustme.LeafCert) -> Path:
    write(tmp_path / "chain.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    write(tmp_path / "key.pem", issued.private_key_pem.bytes())
    return tmp_path


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    file.chmod(0o600)


def mistakes(text: str, base: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, base=base, env={})
    return str(caught.value).splitlines()


def test_a_chain_and_its_key_are_taken(base: Path) -> None:
    tls = loads(LISTENER, base=base, env={}).process.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (str(base / "chain.pem"), str(base / "key.pem"))


def test_the_key_may_be_in_the_file_of_its_chain(base: Path, issued: trustme.LeafCert) -> None:
    write(base / "key.pem", issued.private_key_and_cert_chain_pem.bytes())
    assert loads(LISTENER.replace("chain.pem", "key.pem"), base=base, env={}).process.tls is not None


@pytest.mark.parametrize("data", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nMII\n"])
def test_what_is_no_chain_is_a_mistake_with_its_place(base: Path, data: bytes) -> None:
    write(base / "chain.pem", data)
    [mistake] = mistakes(LISTENER, base)
    assert ":3:18: fastgw.tls.certificate: no certificate in PEM form: " in mistake


def test_what_is_no_key_is_a_mistake_with_its_place(base: Path) -> None:
    write(base / "key.pem", b"nothing")
    [mistake] = mistakes(LISTENER, base)
    assert ":4:10: fastgw.tls.key: no key in PEM form that belongs to the certificate: " in mistake


def test_the_key_of_another_certificate_is_a_mistake(base: Path) -> None:
    write(base / "key.pem", trustme.CA().issue_cert("gw.test").private_key_pem.bytes())
    [mistake] = mistakes(LISTENER, base)
    assert mistake.endswith("that belongs to the certificate: key values mismatch")


def test_an_encrypted_key_is_a_mistake_and_nobody_is_asked(base: Path, issued: trustme.LeafCert) -> None:
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    write(base / "key.pem", encrypted)
    [mistake] = mistakes(LISTENER, base)
    assert "the key is encrypted, and there is nobody to ask for its password" in mistake


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("fastgw: {ca_file: ca.pem}\nservices: []\n", ":1:19: fastgw.ca_file: "),
        (
            "services: [{name: s, upstream: {ca_file: ca.pem, nodes: [{host: a, port: 1, weight: 1}]}}]",
            ":1:42: services[0].upstream.ca_file: ",
        ),
        (
            "services: [{name: s, upstream: {nodes: [{host: a, port: 1, weight: 1, ca_file: ca.pem}]}}]",
            ":1:80: services[0].upstream.nodes[0].ca_file: ",
        ),
    ],
)
def test_a_ca_file_without_certificates_is_a_mistake_with_its_place(
    base: Path, text: str, place: str
) -> None:
    write(base / "ca.pem", b"nothing")
    [mistake] = mistakes(text, base)
    assert place + "no certificates in PEM form: " in mistake
    write(base / "ca.pem", (base / "chain.pem").read_bytes())
    loads(text, base=base, env={})
