"""PEM files of certificates and keys: can they be used?"""

from __future__ import annotations

import ssl

# What OpenSSL blames on a key that is loaded is sometimes the certificate's own fault.
_OF_CERTIFICATE = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")
# OpenSSL loads such a file without a word.
_ONLY_REVOKED = "only lists of revoked ones"


def chain_problem(chain_file: str, key_file: str) -> tuple[str, str] | None:
    """Why a server cannot show this chain: ("certificate" or "key", a message). None: it can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=chain_file)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        return "certificate", f"no certificate in PEM form: {_reason(error)}"
    if not context.cert_store_stats()["x509"]:
        return "certificate", f"no certificate in PEM form: {_ONLY_REVOKED}"
    try:
        context.load_cert_chain(chain_file, key_file, password=no_password)
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) in _OF_CERTIFICATE:
            return "certificate", f"no certificate to be shown: {_reason(error)}"
        return "key", f"no key in PEM form that belongs to the certificate: {_reason(error)}"
    return None


def authorities_problem(ca_file: str) -> str | None:
    """Why nobody can be trusted by this file, or None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        return f"no certificates in PEM form: {_reason(error)}"
    if not context.cert_store_stats()["x509"]:
        return f"no certificates in PEM form: {_ONLY_REVOKED}"
    return None


def no_password() -> str:
    """For OpenSSL, which would ask on the terminal."""
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()
