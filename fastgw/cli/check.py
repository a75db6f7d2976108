"""`fastgw check`: every mistake and warning of a configuration, for people, programs or GitHub.

Starts nothing, connects to nothing and resolves no name.
"""

import json
import os
import re
from dataclasses import asdict
from typing import Any

import click

from fastgw.cli.banner import nodes_table
from fastgw.cli.options import Exit
from fastgw.cli.overrides import Overrides
from fastgw.cli.source import Source
from fastgw.config.model import Config, UpstreamConfig
from fastgw.config.problems import ConfigErrors, Problem

MAX_ROUTES_SHOWN = 50


def run(overrides: Overrides, form: str) -> Exit:
    """Check and print to standard output; FAILURE when there is a mistake."""
    source = Source.choose(overrides, os.environ)
    config: Config | None = None
    errors: tuple[Problem, ...] = ()
    try:
        config = source.load()
    except ConfigErrors as refused:
        errors = refused.problems
    file = config.file if config is not None else source.file or "<embedded>"
    warnings = tuple(problem_of(warning, file) for warning in config.warnings) if config is not None else ()
    printers = {"text": text, "json": as_json, "github": github}
    click.echo(printers[form](file, config, errors, warnings))
    return Exit.FAILURE if errors else Exit.CLEAN


def problem_of(warning: str, file: str) -> Problem:
    """A warning's parts again; one without a position is about the whole file."""
    found = re.match(r":(\d+):(\d+): (.*)\Z", warning.removeprefix(file), re.DOTALL)
    if found is None:
        return Problem(file, 1, 1, "", warning)
    return Problem(file, int(found[1]), int(found[2]), "", found[3])


def upstreams_of(config: Config) -> list[UpstreamConfig]:
    """Every upstream once, in the order of the routes."""
    return list(
        {
            route.upstream.id or route.upstream.name: route.upstream
            for route in config.routes
            if route.upstream is not None
        }.values()
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- Formats ----------------------------------------------------------------------------------


def text(file: str, config: Config | None, errors: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> str:
    """A line per mistake, as compilers write them; when there is none, what the file amounts to."""
    lines = [f"{problem}" for problem in errors]
    lines += [
        f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}" for warning in warnings
    ]
    if config is None:
        return "\n".join([*lines, f"{file}: {_count(len(errors), 'error')}"])
    upstreams = upstreams_of(config)
    nodes = sum(len(upstream.nodes) for upstream in upstreams)
    amounts = [
        _count(len(config.routes), "route"),
        _count(len(upstreams), "upstream"),
        _count(nodes, "node"),
        *([_count(len(warnings), "warning")] if warnings else []),
    ]
    lines.append(f"{file}: good: {', '.join(amounts)} (profile {config.profile.value})")
    for route in config.routes[:MAX_ROUTES_SHOWN]:
        methods = f"{','.join(route.methods)} " if route.methods else ""
        target = route.upstream.name if route.upstream is not None else "nothing"
        lines.append(f"  route {route.name}: {methods}{' '.join(route.uris)} -> {target}")
    if len(config.routes) > MAX_ROUTES_SHOWN:
        lines.append(f"  and {len(config.routes) - MAX_ROUTES_SHOWN} more routes")
    for upstream in upstreams[:MAX_ROUTES_SHOWN]:
        lines += [f"  upstream {upstream.name}:", *nodes_table(upstream)]
    return "\n".join(lines)


def as_json(
    file: str, config: Config | None, errors: tuple[Problem, ...], warnings: tuple[Problem, ...]
) -> str:
    """One object; the same keys whether the file is good or not."""
    upstreams = upstreams_of(config) if config is not None else []
    report: dict[str, Any] = {
        "file": file,
        "good": config is not None,
        "errors": [asdict(problem) for problem in errors],
        "warnings": [asdict(problem) for problem in warnings],
        "profile": config.profile.value if config is not None else None,
        "routes": len(config.routes) if config is not None else None,
        "upstreams": len(upstreams) if config is not None else None,
        "nodes": sum(len(upstream.nodes) for upstream in upstreams) if config is not None else None,
    }
    return json.dumps(report, indent=2)


def github(
    file: str, config: Config | None, errors: tuple[Problem, ...], warnings: tuple[Problem, ...]
) -> str:
    """Workflow commands: they annotate the lines of a pull request."""
    lines = [_annotation("error", problem) for problem in errors]
    lines += [_annotation("warning", problem) for problem in warnings]
    return "\n".join(lines or [f"{file}: good"])


def _annotation(kind: str, problem: Problem) -> str:
    path = f"{problem.path}: " if problem.path else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return (
        f"::{kind} file={_property(problem.file)},line={problem.line},col={problem.column}"
        f"::{_data(path + problem.message + hint)}"
    )


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
