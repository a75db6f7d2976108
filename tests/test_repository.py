"""What must hold of every file of the repository."""

import hashlib
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from source_graph import PACKAGE, ROOT, compiled_sources

BINARY = {".png", ".ico", ".woff2", ".gif", ".jpg", ".webp"}
IGNORED = {"build", "dist", "node_modules", "__pycache__"}
MAX_SOURCE_BYTES = 40 * 1024  # a larger one holds two things
# The article's configuration, to the byte: that it runs unchanged is what is claimed.
ARTICLE_SHA256 = "b44610d10f1445051adf2ee244043eb18a1bb898f205bb23f796cc8f11f18e67"


@cache
def files() -> tuple[Path, ...]:
    """The files under version control and the new ones that would be; without git, all that are not built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = [os.fsdecode(name) for name in listing.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(path.relative_to(ROOT))
            for path in ROOT.rglob("*")
            if not any(
                part in IGNORED or (part[0] == "." and part != ".ci") for part in path.relative_to(ROOT).parts
            )
            and path.suffix not in (".so", ".c")
            and ".egg-info" not in str(path)
        ]
    return tuple(path for name in sorted(names) if (path := ROOT / name).is_file())


@cache
def texts() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text("utf-8") for path in files() if path.suffix not in BINARY
    }


def places(pattern: str, *, flags: int = 0) -> list[str]:
    """file:line of every match."""
    wanted = re.compile(pattern, flags)
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
        for name, text in texts().items()
        for match in wanted.finditer(text)
    ]


def test_files_are_found() -> None:
    assert {"setup.py", "pyproject.toml", "tests/test_repository.py"} <= texts().keys()


# --- What no file contains --------------------------------------------------------------------


def test_no_path_of_a_machine() -> None:
    assert not places(r"(?<![\w.$}~-])/(?:root|work|farm|Users)/\w|(?<![\w.$}~-])/home/\w+/\w")
    if len(ROOT.parts) > 2:
        assert not places(re.escape(str(ROOT)) + r"\b")


def test_no_host_of_a_package_registry() -> None:
    assert not places("|".join(map(re.escape, ("pypi" + ".org", "python" + "hosted", "registry" + ".npmjs"))))


def test_nothing_is_put_off() -> None:
    assert not places(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")


def test_no_secret() -> None:
    assert not places(r"sk-[A-Za-z0-9]{20,}|BEGIN (?:RSA |EC |OPENSSH )?PRIVATE" + r" KEY")


def test_no_conflict_marker() -> None:
    assert not places(r"^(?:<{7}|>{7}) ", flags=re.MULTILINE)


# --- How every file is written ----------------------------------------------------------------


def test_every_file_ends_in_one_newline() -> None:
    assert not [name for name, text in texts().items() if text and not re.search(r"(?:^|[^\n])\n\Z", text)]


def test_no_line_ends_in_white_space() -> None:
    assert not places(r"[ \t\r]+$", flags=re.MULTILINE)


def test_sources_have_no_tabs() -> None:
    assert not [
        place
        for place in places(r"^ *\t", flags=re.MULTILINE)
        if re.match(r"[^:]+\.(py|pyx|pxd|pyi|ya?ml):", place)
    ]


def test_no_source_file_holds_two_things() -> None:
    large = {name: len(text.encode()) for name, text in texts().items() if name.endswith((".py", ".pyx"))}
    assert not {name: size for name, size in large.items() if size > MAX_SOURCE_BYTES}


def test_no_file_is_named_for_its_lack_of_a_subject() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert not [name for name in texts() if vague & {part.split(".")[0] for part in Path(name).parts}]


def test_scripts_can_be_run() -> None:
    assert not [
        name
        for name, text in texts().items()
        if text.startswith("#!") and not os.access(ROOT / name, os.X_OK)
    ]


# --- Documents --------------------------------------------------------------------------------


def anchors(markdown: str) -> set[str]:
    """The fragment of every heading, as forges make it; a repeated heading gets a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _without_code(markdown), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def _without_code(markdown: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)


def test_every_link_of_the_documents_resolves() -> None:
    broken = []
    for name, text in texts().items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"`[^`\n]*`", "", _without_code(text))
        links = re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(
            r"^\[[^\]]+\]: *(\S+)", prose, flags=re.MULTILINE
        )
        for link in links:
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue  # the network is not asked
            target, _, fragment = link.partition("#")
            path = (ROOT / name).parent / target if target else ROOT / name
            if not path.exists():
                broken.append(f"{name}: {link}")
            elif fragment and path.suffix == ".md" and fragment not in anchors(path.read_text()):
                broken.append(f"{name}: {link} (no such heading)")
    assert not broken


def test_every_dependency_is_accounted_for() -> None:
    project = tomllib.loads(texts()["pyproject.toml"])["project"]
    names = [re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"]]
    assert len(names) <= 10
    page = texts()["docs/dependencies.md"]
    assert re.findall(r"^### (\S+)$", page, flags=re.MULTILINE) == names


def test_the_version_stands_in_one_place() -> None:
    match = re.search(r'^__version__ = "(.+)"$', texts()["fastgw/_version.py"], flags=re.MULTILINE)
    assert match
    found = [place.split(":")[0] for place in places(re.escape(match[1]) + r"(?![\w.])")]
    # A report of measurements says which version it measured.
    assert [place for place in found if not place.startswith("benchmarks/results/")] == ["fastgw/_version.py"]


def test_the_article_runs_unchanged_because_it_is_unchanged() -> None:
    article = ROOT / "examples" / "article.yaml"
    assert hashlib.sha256(article.read_bytes()).hexdigest() == ARTICLE_SHA256


# --- The package ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", compiled_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_compiled_source_has_its_companions(source: Path) -> None:
    assert source.exists()
    assert source.with_suffix(".pxd").exists()
    if source.suffix == ".pyx":
        assert source.with_suffix(".pyi").exists()
        assert not source.with_suffix(".py").exists()


def test_every_directory_of_the_package_is_a_package() -> None:
    directories = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [str(path.relative_to(ROOT)) for path in directories if not (path / "__init__.py").exists()]
    assert (PACKAGE / "py.typed").exists()


def test_unit_tests_mirror_the_package() -> None:
    """So that the tests of a module are where one looks for them."""
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert not [str(f) for f in folders if not (PACKAGE / f).is_dir() and not (ROOT / f).is_dir()]
