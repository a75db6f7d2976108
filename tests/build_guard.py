"""Which build do the tests run on, and is it that of the sources as they are?"""

import importlib.machinery as machinery
import sys
from pathlib import Path

from source_graph import PACKAGE, ROOT, built_from, compiled_sources


def prefer_source() -> None:
    """Import foo.py although foo.so lies beside it; a .pyx has only the .so and is unaffected."""
    loaders = (
        (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    )
    make_finder = machinery.FileFinder.path_hook(*loaders)

    def own_finder(path: str) -> machinery.FileFinder:
        if not Path(path).is_relative_to(PACKAGE):  # other packages are imported as they are installed
            raise ImportError
        return make_finder(path)

    if any(name.startswith("fastgw.") for name in sys.modules):
        raise SystemExit("FASTGW_PURE: the package was imported before its sources could be preferred")
    sys.path_hooks.insert(0, own_finder)
    sys.path_importer_cache.clear()


def unfit_extensions(root: Path = ROOT, *, is_pure: bool) -> list[str]:
    """What keeps us from testing the sources as they are: compiled modules missing, stale or left over.

    With ``is_pure`` only the .pyx have to be built: the rest is imported from its source.
    """
    unfit = []
    for source in compiled_sources(root):
        if not source.exists() or (is_pure and source.suffix == ".py"):
            continue
        name = source.relative_to(root)
        # Of several, the one that this interpreter imports.
        built = [
            path
            for suffix in machinery.EXTENSION_SUFFIXES
            if (path := source.with_name(source.stem + suffix)).exists()
        ]
        if not built:
            unfit.append(f"{name} is not built")
            continue
        built_at = built[0].stat().st_mtime_ns
        newer = [other for other in built_from(source, root) if other.stat().st_mtime_ns > built_at]
        if newer:
            unfit.append(f"{name} was built before {min(newer).relative_to(root)} changed")
    if not is_pure:
        stems = {path.with_suffix("") for path in compiled_sources(root)}
        for left in (root / "fastgw").rglob("*.so"):
            if left.with_name(left.name.split(".")[0]) not in stems:
                unfit.append(f"{left.relative_to(root)} is not among COMPILED of setup.py")
    return unfit
