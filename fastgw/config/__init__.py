"""YAML -> frozen values, or every mistake at once, each with its file, line, column and path.

``load`` and ``loads`` are the way in; ``model`` has what comes out.
"""

from typing import Any

from fastgw.config.addresses import is_loopback, parse_connect_to, parse_listen
from fastgw.config.embedded import EMBEDDED, embedded
from fastgw.config.load import load, loads
from fastgw.config.model import (
    AccountCheck,
    ActiveCheck,
    Config,
    ConsumerConfig,
    Deadlines,
    Keepalive,
    Mark,
    NodeConfig,
    PassiveCheck,
    PluginConfig,
    ProcessConfig,
    Profile,
    RouteConfig,
    Timeouts,
    UpstreamConfig,
)
from fastgw.config.problems import ConfigErrors, Problem

__all__ = [
    "EMBEDDED",
    "AccountCheck",
    "ActiveCheck",
    "Config",
    "ConfigErrors",
    "ConsumerConfig",
    "Deadlines",
    "Keepalive",
    "Mark",
    "NodeConfig",
    "PassiveCheck",
    "PluginConfig",
    "Problem",
    "ProcessConfig",
    "Profile",
    "RouteConfig",
    "Timeouts",
    "UpstreamConfig",
    "embedded",
    "is_loopback",
    "json_schema",
    "load",
    "loads",
    "parse_connect_to",
    "parse_listen",
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors: the data that loading checks with."""
    from fastgw.config.schema import json_schema

    return json_schema()
