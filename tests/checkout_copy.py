"""Copies of the checkout, to break or to build in another way: the checkout itself is left alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from source_graph import ROOT, compiled_sources

_NOT_COPIED = {"build", "dist", "node_modules", "__pycache__"}


def _is_built(name: Path) -> bool:
    return name.suffix == ".so" or (name.suffix == ".c" and name.parts[0] == "fastgw")


def _files(root: Path) -> set[Path]:
    """The files below ``root`` that matter to a build or a test, relative to it."""
    found = set()
    for directory, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in _NOT_COPIED and not f.startswith((".", "fastgw.egg"))]
        found |= {Path(directory, name).relative_to(root) for name in names if not name.startswith(".")}
    return found


def _is_same(one: Path, other: Path) -> bool:
    if not other.exists():
        return False
    a, b = one.stat(), other.stat()
    return (a.st_mtime_ns, a.st_size) == (b.st_mtime_ns, b.st_size)


def copy_checkout(to: Path, *, with_built: bool) -> None:
    """Make ``to`` what the checkout is. What is the same already stays, so a second build is a small one.

    Args:
        with_built: with the compiled modules; without them, those of ``to`` are its own and stay.
    """
    wanted = {name for name in _files(ROOT) if with_built or not _is_built(name)}
    for name in wanted:
        if not _is_same(ROOT / name, to / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    modules = {source.with_suffix("") for source in compiled_sources(to)}
    for name in _files(to) - wanted:
        if not _is_built(name) or to / name.parent / name.name.split(".")[0] not in modules:
            (to / name).unlink()


def apply_patch(patch: Path, root: Path, *options: str) -> str:
    """Apply a patch to the files below ``root``; returns what is wrong with it, "" if nothing is."""
    command = ["git", "apply", "-C1", *options, str(patch)]  # what stands around may change
    # Without a .git below it, a copy is no part of a repository that it may lie in.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def build(root: Path, **env: str) -> str:
    """Build what has changed of a copy's modules; returns what was said if that failed, else ""."""
    # Not --inplace: that compares with an earlier build's directory, which a copy does not have.
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", ".", "--parallel", str(os.cpu_count() or 1)],
        cwd=root,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout if done.returncode else ""


def environment(root: Path, **more: str) -> dict[str, str]:
    """Ours, for tests of a copy: without what says how this process was started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTGW_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(root), **more}
