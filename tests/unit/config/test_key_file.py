"""Files with keys: who may read them, and what is taken from them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from fastgw.config import key_file
from fastgw.config.key_file import BadKeyFile, is_exposed

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY_ID = 0xFFFFFFFF


def acl(*entries: tuple[int, int]) -> bytes:
    """An access control list as the kernel shows it: (tag, permissions) of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry, NOBODY_ID) for entry in entries)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("key\n")
    path.chmod(0o440)
    return path


@pytest.mark.parametrize(
    ("mode", "exposed"), [(0o400, False), (0o600, False), (0o440, True), (0o604, True), (0o620, False)]
)
def test_a_file_is_exposed_to_whom_its_mode_lets_read(file: Path, mode: int, exposed: bool) -> None:
    file.chmod(mode)
    assert is_exposed(str(file)) is exposed


@pytest.mark.parametrize(
    ("entries", "exposed"),
    [
        # As systemd gives a service its credential: one user may read, and the mode says 0440.
        (((USER_OBJ, 4), (USER, 4), (GROUP_OBJ, 0), (MASK, 4), (OTHER, 0)), False),
        (((USER_OBJ, 4), (USER, 4), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 0)), True),
        (((USER_OBJ, 4), (GROUP_OBJ, 0), (GROUP, 4), (MASK, 4), (OTHER, 0)), True),
        (((USER_OBJ, 4), (GROUP_OBJ, 0), (GROUP, 4), (MASK, 2), (OTHER, 0)), False),
        (((USER_OBJ, 4), (GROUP_OBJ, 4), (OTHER, 0)), True),
    ],
)
def test_an_access_control_list_says_more_than_the_mode(
    file: Path, monkeypatch: pytest.MonkeyPatch, entries: tuple[tuple[int, int], ...], exposed: bool
) -> None:
    monkeypatch.setattr(os, "getxattr", lambda *_: acl(*entries))
    assert is_exposed(str(file)) is exposed


def test_a_list_that_the_system_keeps_is_read_as_it_is(file: Path) -> None:
    granted = acl((USER_OBJ, 4), (USER, 4), (GROUP_OBJ, 0), (MASK, 4), (OTHER, 0))
    named = granted.replace(struct.pack("<HHI", USER, 4, NOBODY_ID), struct.pack("<HHI", USER, 4, 12345))
    try:
        os.setxattr(file, "system.posix_acl_access", named)
    except OSError:
        pytest.skip("not applicable: this file system has no access control lists")
    assert file.stat().st_mode & 0o777 == 0o440
    assert not is_exposed(str(file))
    assert key_file.read(file) == "key"


def test_what_cannot_be_opened_or_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none", "cannot be read"), ("pipe", "not a regular"), (".", "not a regular")):
        with pytest.raises(BadKeyFile, match=reason):
            key_file.read(tmp_path / name)


def test_no_descriptor_stays_open(tmp_path: Path, file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (file, tmp_path, tmp_path / "none"):
        with pytest.raises(BadKeyFile):
            key_file.read(path)
    assert key_file.read(file, allows_exposed=True) == "key"
    assert len(os.listdir("/proc/self/fd")) == before
