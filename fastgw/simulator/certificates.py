"""The private authority of the simulated providers: made on first use, kept, and remade before it expires.

The authority's own key is thrown away once the certificates are signed, so nothing on the disk can sign
another one: whoever trusts ``ca.pem`` trusts these few names and nothing more.  ``trustme`` and
``cryptography`` are imported only when something has to be made (about 0.1 s).
"""

import contextlib
import datetime
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What can be wrong with the certificate of the fault ``bad_certificate``.
VARIANTS = ("wrong_name", "self_signed", "expired", "unknown_ca")

LIFETIME_S = 365 * 86400
REMAKE_BEFORE_S = 30 * 86400  # a running simulator may outlive a remake by this long

_FORMAT = 1  # raise it when the set of files changes; an older set is then remade
_MANIFEST = "made.json"
_WRONG_NAME = "wrong-name.invalid"


@dataclass(frozen=True, slots=True)
class Certificates:
    """A complete set on the disk."""

    directory: Path

    @property
    def ca_file(self) -> Path:
        """The certificate to trust, PEM."""
        return self.directory / "ca.pem"

    def chain_file(self, host: str, variant: str | None = None) -> Path:
        """The key and chain that serve ``host``, PEM; ``variant`` names what is wrong with it."""
        return self.directory / (f"{host}.pem" if variant is None else f"{host}.{variant}.pem")


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/fastgw/simulator``, or below ``~/.cache``. OSError when there is no home."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):  # the XDG specification says to ignore a relative one
        return Path(cache) / "fastgw" / "simulator"
    try:
        return Path.home() / ".cache" / "fastgw" / "simulator"
    except RuntimeError as error:
        raise FileNotFoundError("no home directory for the simulator's certificates") from error


def ensure(directory: Path, hosts: Sequence[str], *, now: float | None = None) -> Certificates:
    """Return a valid set for ``hosts`` in ``directory``; make it if it is absent or nearly expired.

    Safe when several processes start at once. ``now`` is wall time, seconds. Raises OSError when
    the directory cannot be written.
    """
    wall = time.time() if now is None else now
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates = Certificates(directory)
    with _locked(directory):
        if not _is_usable(certificates, hosts, wall):
            _make(certificates, hosts, wall)
    return certificates


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_usable(certificates: Certificates, hosts: Sequence[str], wall: float) -> bool:
    try:
        made = json.loads((certificates.directory / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(made, dict) or made.get("format") != _FORMAT:
        return False
    expires = made.get("expires")
    if not isinstance(expires, (int, float)) or not wall + REMAKE_BEFORE_S < expires <= wall + 2 * LIFETIME_S:
        return False  # near its end, or the clock was wrong when it was made
    files = [certificates.chain_file(host, variant) for host in hosts for variant in (None, *VARIANTS)]
    return all(file.is_file() for file in (certificates.ca_file, *files))


def _make(certificates: Certificates, hosts: Sequence[str], wall: float) -> None:
    import trustme

    (certificates.directory / _MANIFEST).unlink(missing_ok=True)  # a set cut short is no set
    day = datetime.timedelta(days=1)
    today = datetime.datetime.fromtimestamp(wall, datetime.UTC).replace(tzinfo=None)
    begins, ends = today - day, today + datetime.timedelta(seconds=LIFETIME_S)
    authority = trustme.CA(organization_name="fastgw simulator", organization_unit_name="not for production")
    stranger = trustme.CA(organization_name="fastgw simulator", organization_unit_name="trusted by nobody")

    def issue(issuer: trustme.CA, name: str, begins: datetime.datetime, ends: datetime.datetime) -> bytes:
        leaf = issuer.issue_cert(name, common_name=name, not_before=begins, not_after=ends)
        return leaf.private_key_and_cert_chain_pem.bytes()

    for host in hosts:
        _write(certificates.chain_file(host), issue(authority, host, begins, ends))
        bad = {
            "wrong_name": issue(authority, _WRONG_NAME, begins, ends),
            "self_signed": _self_signed(host, begins, ends),
            "expired": issue(authority, host, begins - 30 * day, begins - day),
            "unknown_ca": issue(stranger, host, begins, ends),
        }
        for variant in VARIANTS:
            _write(certificates.chain_file(host, variant), bad[variant])
    _write(certificates.ca_file, authority.cert_pem.bytes())
    manifest = {"format": _FORMAT, "expires": wall + LIFETIME_S}
    _write(certificates.directory / _MANIFEST, json.dumps(manifest).encode())


def _self_signed(host: str, begins: datetime.datetime, ends: datetime.datetime) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step, readable by its owner only."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    staged.replace(path)
