"""What the source files of the package import and cimport, read without running them."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastgw"
SOURCE_SUFFIXES = (".py", ".pyx", ".pxd")

# An import or a cimport of a .pyx or .pxd file: the whole statement on one line, or its names in parentheses.
_FROM = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+(c?import)[ \t]+(\([^)]*\)|[^\n#]*)", re.MULTILINE)
_PLAIN = re.compile(r"^[ \t]*(c?import)[ \t]+([\w., \t]+)", re.MULTILINE)
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'', re.DOTALL)
_COMMENT = re.compile(r"#[^\n]*")


class Imported(NamedTuple):
    """One name that a file imports: absolute and dotted, up to the name itself."""

    name: str
    is_c: bool  # by cimport


def source_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in SOURCE_SUFFIXES)


def compiled_sources(root: Path = ROOT) -> list[Path]:
    """The files that setup.py names in COMPILED, whether they exist or not."""
    for node in ast.parse((root / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            return [root / name for name in ast.literal_eval(node.value)]
    raise AssertionError("setup.py has no COMPILED")


def imports(path: Path, root: Path = ROOT) -> set[Imported]:
    """All names that the file at ``path`` imports or cimports."""
    package = path.relative_to(root).parent.parts
    return python_imports(path, package) if path.suffix == ".py" else cython_imports(path, package)


def _absolute(module: str, package: tuple[str, ...]) -> str:
    name = module.lstrip(".")
    level = len(module) - len(name)
    base = package[: len(package) + 1 - level] if level else ()
    return ".".join((*base, *filter(None, name.split("."))))


def python_imports(path: Path, package: tuple[str, ...]) -> set[Imported]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {Imported(alias.name, is_c=False) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute("." * node.level + (node.module or ""), package)
            found |= {Imported(f"{module}.{alias.name}", is_c=False) for alias in node.names}
    return found


def cython_imports(path: Path, package: tuple[str, ...]) -> set[Imported]:
    """The imports of a .pyx or .pxd file that lies in ``package``."""
    text = _COMMENT.sub("", _STRING.sub('""', path.read_text())).replace("\\\n", " ")
    found = set()
    for module, kind, names in _FROM.findall(text):
        base = _absolute(module, package)
        for name in names.strip(" \t()").split(","):
            if word := name.split():
                found.add(Imported(f"{base}.{word[0]}", kind == "cimport"))
    for kind, names in _PLAIN.findall(text):
        found |= {Imported(word[0], kind == "cimport") for name in names.split(",") if (word := name.split())}
    return found


def built_from(source: Path, root: Path = ROOT) -> set[Path]:
    """Every file whose change makes the compiled form of ``source`` a thing of yesterday.

    That is the file itself, the .pxd beside it, every .pxd that these cimport from, and so on: a struct that
    has grown in one of them lies elsewhere in the modules that were not built since.
    """
    found = {source}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        candidates = {path.with_suffix(".pxd")}
        for name, is_c in imports(path, root):
            if is_c:
                parts = name.split(".")
                candidates |= {root.joinpath(*parts[:end]).with_suffix(".pxd") for end in (len(parts), -1)}
        new = {candidate for candidate in candidates if candidate.is_file()} - found
        found |= new
        waiting += new
    return found
