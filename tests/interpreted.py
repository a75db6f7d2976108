"""A module of the package run by the interpreter, whatever is built: the oracle of its compiled form."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType


def interpreted(module: ModuleType) -> ModuleType:
    """The same module once more, from the .py file beside it, under a name of its own."""
    assert module.__file__ is not None
    name = module.__name__ + "_interpreted"
    source = Path(module.__file__).with_name(module.__name__.rpartition(".")[2] + ".py")
    loader = SourceFileLoader(name, str(source))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    found = module_from_spec(spec)
    sys.modules[name] = found  # its classes look themselves up there
    loader.exec_module(found)
    return found
