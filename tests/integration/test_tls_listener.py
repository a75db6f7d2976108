"""Clients that speak TLS, and the certificate they are shown."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from openai import OpenAI
from rig import CONFIG, MESSAGES, FaultKind, Rig, config_of, running
from trustme import KeyType

from fastgw.errors import ConfigError
from fastgw.server import Certificate


class Files:
    """A certificate of an authority of our own, as PEM files."""

    def __init__(self, directory: Path) -> None:
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self.write()

    def write(self, kind: KeyType = KeyType.ECDSA) -> None:
        """A new authority and a new certificate, in the same files."""
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost", "127.0.0.1", key_type=kind)
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.key.chmod(0o600)
        self.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def context(self) -> ssl.SSLContext:
        """A client that trusts this authority only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    def config(self, more: str = "") -> str:
        tls = f"  tls: {{certificate: {self.chain}, key: {self.key}{more}}}\n"
        return CONFIG.replace("fastgw:\n", "fastgw:\n" + tls)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def base_url(rig: Rig) -> str:
    return f"https://127.0.0.1:{rig.port}/v1"


def test_the_sdk_is_served_over_tls(ca_dir: Path, files: Files, loop_kind: str) -> None:
    with (
        running(ca_dir, files.config(), loop_kind=loop_kind) as rig,
        httpx.Client(verify=files.context(), timeout=60) as http,
        OpenAI(base_url=base_url(rig), api_key="sk-any", max_retries=0, http_client=http) as client,
    ):
        messages = MESSAGES
        answer = client.chat.completions.create(model="gpt-4o", messages=messages)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "You said: say hello"
        rig.fault(rig.openai, FaultKind.STATUS, status=503)
        stream = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "You said: say hello"


def test_large_bodies_go_both_ways(ca_dir: Path, files: Files) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 600_000}]}
    fields = {"x-sim-tokens": "30000"}
    with running(ca_dir, files.config()) as rig, httpx.Client(verify=files.context(), timeout=30) as client:
        for _ in range(3):
            answer = client.post(f"{base_url(rig)}/chat/completions", json=body, headers=fields)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"].endswith(" w29999")


def test_a_broken_stream_does_not_end_as_a_whole_one(ca_dir: Path, files: Files) -> None:
    body = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
    with running(ca_dir, files.config()) as rig, httpx.Client(verify=files.context(), timeout=30) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2)
        received: list[bytes] = []
        with client.stream("POST", f"{base_url(rig)}/chat/completions", json=body) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                received.extend(answer.iter_raw())
        assert b'"code":"stream_interrupted"' in b"".join(received)


def test_plain_http_is_not_served_on_a_tls_listener(ca_dir: Path, files: Files) -> None:
    with running(ca_dir, files.config()) as rig, rig.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            received = sock.recv(1000)
        except ConnectionResetError:
            received = b""
        assert not received.startswith(b"HTTP/")


def test_a_version_below_the_least_is_refused(ca_dir: Path, files: Files) -> None:
    context = files.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for more, is_served in (("", True), (", min_version: 1.3", False)):
        with running(ca_dir, files.config(more)) as rig, rig.connect() as sock:
            try:
                with context.wrap_socket(sock, server_hostname="localhost") as tls:
                    served = tls.version()
            except (ssl.SSLError, ConnectionResetError):
                served = None
            assert (served == "TLSv1.2") is is_served


def test_a_reload_shows_the_new_certificate_and_keeps_open_connections(ca_dir: Path, files: Files) -> None:
    text = files.config()
    with running(ca_dir, text, reload_config=lambda: config_of(text)) as rig:
        with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as sock:
            with files.context().wrap_socket(sock, server_hostname="localhost") as tls:
                files.write()
                assert rig.call(rig.gateway.reload)
                tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert tls.recv(1000).startswith(b"HTTP/1.1 200 ")
        with httpx.Client(verify=files.context(), timeout=60) as client:
            assert client.get(f"https://localhost:{rig.port}/healthz").status_code == 200
        files.key.write_text("no key")
        assert not rig.call(rig.gateway.reload)
        assert ": fastgw.tls.key: no key in PEM form" in rig.gateway.last_reload_error
        with httpx.Client(verify=files.context(), timeout=60) as client:
            assert client.get(f"https://localhost:{rig.port}/healthz").status_code == 200


@pytest.mark.parametrize("kinds", [(KeyType.ECDSA, KeyType.RSA), (KeyType.RSA, KeyType.ECDSA)])
def test_a_reload_shows_a_certificate_of_another_kind_of_key(
    ca_dir: Path, files: Files, loop_kind: str, kinds: tuple[KeyType, KeyType]
) -> None:
    """Clients that would take either kind must not be shown the old one."""
    files.write(kinds[0])
    with running(
        ca_dir, files.config(), loop_kind=loop_kind, reload_config=lambda: config_of(files.config())
    ) as rig:
        for kind in (kinds[0], kinds[1], kinds[0]):
            files.write(kind)
            assert rig.call(rig.gateway.reload)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = files.context()  # trusts the newest only
                context.maximum_version = version
                context.set_alpn_protocols(["h2", "http/1.1"])
                with rig.connect() as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
                    assert tls.selected_alpn_protocol() == "http/1.1"
        context.check_hostname = False
        with rig.connect() as sock, context.wrap_socket(sock) as tls:  # a client that names nobody
            assert tls.version() == "TLSv1.3"


@pytest.mark.parametrize("broken", ["chain", "key"])
def test_files_that_are_no_certificate_are_named(files: Files, broken: str) -> None:
    getattr(files, broken).write_text("nothing")
    with pytest.raises(ConfigError, match=r"chain\.pem and .*key\.pem are no certificate chain and its key"):
        Certificate(str(files.chain), str(files.key))


def test_a_key_of_another_certificate_is_refused(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="key values mismatch"):
        Certificate(str(files.chain), str(Files(other).key))


def test_a_handshake_that_never_ends_is_given_up(
    ca_dir: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Certificate, "HANDSHAKE_S", 0.3)
    with running(ca_dir, files.config()) as rig, rig.connect() as sock:
        assert sock.recv(1) == b""  # closed by the gateway


def test_the_error_of_a_missing_file_has_its_place(tmp_path: Path) -> None:
    text = json.dumps(
        {"fastgw": {"tls": {"certificate": str(tmp_path / "no.pem"), "key": str(tmp_path / "no.key")}}}
    )
    with pytest.raises(ConfigError) as refused:
        config_of(text)
    assert "fastgw.tls.certificate" in str(refused.value)
    assert "no file that can be read" in str(refused.value)
