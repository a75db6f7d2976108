"""Files of certificates and keys that cannot be used."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastgw.errors import ConfigError
from fastgw.pem import authorities_problem, chain_problem
from fastgw.wire.tls import TlsContext


@pytest.fixture
def revoked(tmp_path: Path) -> str:
    """A list of revoked certificates, which stands in a PEM file like a certificate."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([]))
        .last_update(now)
        .next_update(now + datetime.timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    path = tmp_path / "crl.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(path)


def test_a_list_of_revoked_certificates_makes_nobody_trusted(revoked: str) -> None:
    assert authorities_problem(revoked) == "no certificates in PEM form: only lists of revoked ones"
    with pytest.raises(ConfigError, match="cannot load certificates"):
        TlsContext(revoked)


def test_a_list_of_revoked_certificates_is_blamed_and_not_the_key(revoked: str, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    trustme.CA().issue_cert("a.example").private_key_pem.write_to_path(str(key))
    problem = chain_problem(revoked, str(key))
    assert problem == ("certificate", "no certificate in PEM form: only lists of revoked ones")
