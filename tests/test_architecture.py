"""The architecture, executable: imports point down, and decisions touch no clock or socket."""

import subprocess
import sys
from pathlib import Path

import pytest
from Cython.Build.Dependencies import create_dependency_tree
from source_graph import (
    PACKAGE,
    ROOT,
    Imported,
    built_from,
    compiled_sources,
    cython_imports,
    imports,
    source_files,
)

LAYERS = [  # top to bottom; names on one line never import each other
    {"__main__"},
    {"cli"},
    {"admin"},
    {"gateway"},
    {"generation"},
    {"server", "supervisor", "config", "metrics", "access_log", "simulator", "memory"},
    {"shared_state"},
    {"plugins"},
    {"proxy"},
    {"routing", "embed"},
    {"balancing", "llm", "wire"},
    {"_core", "errors", "_version", "redaction", "pem"},
    {"_node", "secret"},
    {"_record"},
    {"_shm", "_clock"},
]
PURE = ("_core", "_node", "_record", "_shm", "balancing", "llm")
IMPURE = {"asyncio", "socket", "ssl", "time", "uvloop", "select", "selectors", "threading"}
ONLY_ABOVE = {  # heavy or far from the request path: imported by these parts only
    "click": {"cli"},
    "rich": {"cli"},
    "yaml": {"config", "cli"},
    "jsonschema": {"config", "cli"},
    "prometheus_client": {"admin"},
    "trustme": {"simulator"},
    "uvloop": {"server", "cli", "simulator"},
}
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def own_part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_has_a_floor() -> None:
    parts = {own_part(path) for path in source_files()} - {"__init__"}
    assert parts <= LEVEL.keys(), f"say in LAYERS where these belong: {sorted(parts - LEVEL.keys())}"


def test_imports_point_down() -> None:
    offences = set()
    for path in source_files():
        own = own_part(path)
        if own not in LEVEL:
            continue  # fastgw/__init__.py hands names on
        for part in {name.split(".")[1] for name, _ in imports(path) if name.startswith("fastgw.")}:
            if part in LEVEL and part != own and LEVEL[part] <= LEVEL[own]:
                offences.add(f"{name_of(path)} imports {part}")
    assert not sorted(offences)


def test_every_own_name_that_is_imported_has_a_floor() -> None:
    parts = {
        name.split(".")[1]
        for path in source_files()
        if own_part(path) != "__init__"
        for name, _ in imports(path)
        if name.startswith("fastgw.")
    }
    assert parts <= LEVEL.keys(), "import from the module that has the name, not from fastgw itself"


def test_decisions_touch_no_clock_and_no_socket() -> None:
    offences = []
    for path in source_files():
        if own_part(path) in PURE:
            roots = {name.split(".")[0] for name, _ in imports(path)}
            offences += [f"{name_of(path)} imports {root}" for root in sorted(roots & IMPURE)]
            c_names = {name for name, is_c in imports(path) if is_c}
            offences += [
                f"{name_of(path)} cimports {name}"
                for name in sorted(c_names)
                if name.startswith(("posix.", "libc.time", "cpython.time", "fastgw._clock"))
            ]
    assert not offences


def test_dependencies_are_imported_only_where_they_belong() -> None:
    offences = []
    for path in source_files():
        for root in {name.split(".")[0] for name, _ in imports(path)} & ONLY_ABOVE.keys():
            if own_part(path) not in ONLY_ABOVE[root]:
                offences.append(f"{name_of(path)} imports {root}")
    assert not offences


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, fastgw; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"asyncio", "httptools", "orjson", "ssl", *ONLY_ABOVE} & set(done.stdout.split())


# --- The reader of Cython's imports, which the tests above and the guard against stale modules trust ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from fastgw._core cimport Node, Selector as S", {"fastgw._core.Node", "fastgw._core.Selector"}),
        (
            "from ..wire.pool cimport (\n    Pool,  # why\n    Lease,\n)",
            {"fastgw.wire.pool.Pool", "fastgw.wire.pool.Lease"},
        ),
        ("from . cimport relay", {"fastgw.proxy.relay"}),
        ("cimport fastgw.wire.pool as pool, cython", {"fastgw.wire.pool", "cython"}),
        ("    from libc.string cimport \\\n        memchr", {"libc.string.memchr"}),
        ('"""from fastgw.cli cimport nothing"""', set()),
        ("# cimport fastgw.cli", set()),
    ],
)
def test_cimports_are_read(tmp_path: Path, line: str, expected: set[str]) -> None:
    path = tmp_path / "exchange.pxd"
    path.write_text(line + "\n")
    assert cython_imports(path, ("fastgw", "proxy")) == {Imported(name, is_c=True) for name in expected}


def testpython_imports_of_cython_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "head.pyx"
    path.write_text("import fastgw.errors, time\nfrom ..errors import ProtocolError\n")
    assert cython_imports(path, ("fastgw", "wire")) == {
        Imported("fastgw.errors", is_c=False),
        Imported("time", is_c=False),
        Imported("fastgw.errors.ProtocolError", is_c=False),
    }


def test_the_build_knows_what_a_compiled_module_is_built_from() -> None:
    """`from package cimport module` compiles, but Cython does not see that the module's .pxd matters.

    Then a change of that builds nothing anew. `cimport package.module as module` is seen.
    """
    known = create_dependency_tree()
    for source in compiled_sources():
        seen = {Path(path).resolve() for path in known.all_dependencies(str(source))}
        assert built_from(source) <= seen, source


def test_a_compiled_module_depends_on_what_it_cimports() -> None:
    for source in source_files():
        own = source.with_suffix(".pxd")
        if source.suffix != ".pxd" and own.exists():
            assert {source, own} <= built_from(source)
