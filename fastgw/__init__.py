"""fastgw: while one provider can answer, the caller gets its answer.

The names of the embedding interface are handed on lazily: importing the package costs nothing, and
the gateway never loads what only embedders need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgw._core import Node
    from fastgw._version import __version__
    from fastgw.balancing.health import HealthPolicy, Thresholds
    from fastgw.embed import Upstream
    from fastgw.errors import NoNodeAvailable

__all__ = ["HealthPolicy", "NoNodeAvailable", "Node", "Thresholds", "Upstream", "__version__"]

_HOMES = {
    "HealthPolicy": "fastgw.balancing.health",
    "NoNodeAvailable": "fastgw.errors",
    "Node": "fastgw._core",
    "Thresholds": "fastgw.balancing.health",
    "Upstream": "fastgw.embed",
    "__version__": "fastgw._version",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
