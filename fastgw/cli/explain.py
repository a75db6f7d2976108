"""`fastgw explain`: what would become of a request, and why; or the table of what answers mean.

A running gateway is asked if there is one, for it knows the nodes' health. Otherwise the same code
runs here, over the configuration, without a socket.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from fastgw.cli.options import Exit
from fastgw.cli.overrides import OFF, Overrides
from fastgw.cli.source import Source
from fastgw.config.model import ProcessConfig
from fastgw.errors import FastgwError
from fastgw.secret import Secret

if TYPE_CHECKING:
    from fastgw.admin.explain import Question

MOST_BYTES = ProcessConfig().max_body_bytes  # of a body: what a gateway takes, unless it is told otherwise
ASK_S = 5.0  # a gateway that was named may take so long to answer
LOOK_S = 1.0  # ... and one that may or may not be there
MAX_ANSWER_BYTES = 4 * 1024 * 1024


class NoAnswer(Exception):
    """A gateway gave no explanation; ``is_absent``: nothing listens there."""

    def __init__(self, message: str, *, is_absent: bool = False) -> None:
        super().__init__(message)
        self.is_absent = is_absent


def run(
    overrides: Overrides,
    *,
    method: str,
    target: str,
    host: str | None,
    body: str | None,
    url: str | None,
    form: str,
) -> Exit:
    """Explain one request on standard output; FAILURE when no node would be asked.

    Args:
        body: a file's name, "-" for standard input, or None.
        url: of a gateway's admin port. None: a configuration that was named is explained as it is
            written, else the gateway that runs here is asked, if there is one.
    """
    try:
        question = question_of(method, target, host, _read(body) if body is not None else None)
        problem = question.problem()
        if problem:
            return _failed(problem, Exit.USAGE)
        told = _told(overrides, question, url)
    except OSError as error:
        return _failed(f"cannot read {body}: {error.strerror}")
    except (ValueError, NoAnswer) as error:
        return _failed(str(error))
    except FastgwError as error:
        from fastgw.cli.process import refused

        return refused(error)
    click.echo(json.dumps(told, indent=2) if form == "json" else text(told))
    return Exit.CLEAN if told["attempts"] else Exit.FAILURE


def outcomes() -> Exit:
    """Print what each answer of a provider means."""
    from fastgw.llm.outcome import table_text

    click.echo(f"{'status':<24} {'verdict':<10} reason  words that must be there\n{table_text()}")
    return Exit.CLEAN


def question_of(method: str, target: str, host: str | None, body: bytes | None) -> Question:
    """A request as far as it decides anything. Raises ValueError: the body would be refused."""
    from fastgw.admin.explain import Question
    from fastgw.balancing.retry import is_replayable
    from fastgw.llm.body import scan

    method = method.upper()
    if body is None:
        return Question(method, target, host)
    facts = scan(body)
    if facts is None:
        raise ValueError("the body is no JSON object: providers would refuse it")
    if facts.duplicate_model:
        raise ValueError("the body has the field 'model' more than once: the gateway refuses that (400)")
    path = target.partition("?")[0].encode("utf-8", "replace")
    may_repeat = is_replayable(method.encode("utf-8", "replace"), path, body)
    return Question(method, target, host, facts.model, facts.stream, may_repeat, body)


def _read(name: str) -> bytes:
    """Raises OSError; and ValueError, if it is more than a gateway would read."""
    if name == "-":
        body = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        with open(name, "rb") as file:
            body = file.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise ValueError(f"the body is larger than {MOST_BYTES} bytes: the gateway refuses that (413)")
    return body


def _failed(message: str, code: Exit = Exit.FAILURE) -> Exit:
    click.echo(f"fastgw explain: {message}", err=True)
    return code


# --- Who knows ----------------------------------------------------------------------------------


def _told(overrides: Overrides, question: Question, url: str | None) -> dict[str, Any]:
    if url is not None:
        return ask(url, question, overrides.admin_token(os.environ), ASK_S)
    source = Source.choose(overrides, os.environ)
    config = source.load()
    admin = config.process.admin
    note = ""
    if overrides.file is None and admin is not None and admin != OFF and ":" in admin:
        try:
            return ask(f"http://{admin}", question, config.process.admin_token, LOOK_S)
        except NoAnswer as error:
            if not error.is_absent:
                note = str(error)
    from fastgw.admin.explain import explain
    from fastgw.gateway import Settings, try_to_build

    generation = try_to_build(config, Settings())
    told = {"health": "as configured", **explain(generation, question, monotonic())}
    return told | {"note": note} if note else told


def ask(url: str, question: Question, token: Secret | None, timeout_s: float) -> dict[str, Any]:
    """What a running gateway says, by its admin port. Raises NoAnswer."""
    if not url.startswith(("http://", "https://")):
        raise NoAnswer(f"{url}: expected http://HOST:PORT, the address of an admin port")
    may_repeat = question.is_replayable
    asked = {
        "method": question.method,
        "path": question.target,
        "host": question.host,
        "model": question.model,
        "stream": str(question.is_stream).lower(),
        "replayable": str(may_repeat).lower() if may_repeat is not None else None,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    place = url.rstrip("/")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(f"{place}/admin/explain?{query}")
        if token:
            request.add_header("Authorization", f"Bearer {token.reveal()}")
        with opener.open(request, timeout=timeout_s) as answer:
            told = json.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswer(f"{place}: {_refusal(error)}") from error
    except urllib.error.URLError as error:
        is_absent = isinstance(error.reason, ConnectionRefusedError)
        raise NoAnswer(f"{place}: cannot be reached: {error.reason}", is_absent=is_absent) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"{place}: no answer of a gateway: {error}") from error
    if not isinstance(told, dict) or "attempts" not in told:
        raise NoAnswer(f"{place}: no answer of a gateway's admin port")
    return told


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return "it asks for the admin token: --admin-token-file, or FASTGW_ADMIN_TOKEN"
    try:
        said = json.loads(error.read(64 * 1024))["error"]["message"]
    except (ValueError, LookupError, TypeError, OSError):
        return f"answered {error.code}: is this the admin port of a gateway of this version?"
    return f"answered {error.code}: {said}"


# --- For people ---------------------------------------------------------------------------------


def text(told: dict[str, Any]) -> str:
    """An explanation as text."""
    request = told["request"]
    asked = [f"{request['method']} {request['path']}"]
    if request["host"]:
        asked.append(f"host {request['host']}")
    if request["model"]:
        asked.append(f"model {request['model']}")
    if request["stream"]:
        asked.append("streamed")
    lines = [", ".join(asked)]
    route = told["route"]
    if route is None:
        return "\n".join([*lines, f"  answer    {told['answer']}"])
    where = f"  ({route['written_at']})" if route["written_at"] else ""
    lines.append(f"  route     {route['name']}{where}")
    plugins = [
        f"{plugin['name']}{'' if plugin['runs'] else ' (written into every request)'}"
        for plugin in told["plugins"]
    ]
    lines.append(f"  plugins   {', '.join(plugins) or 'none'}")
    upstream = told["upstream"]
    if upstream is None:
        return "\n".join([*lines, f"  answer    {told['answer']}"])
    count = upstream["max_attempts"]
    lines.append(f"  upstream  {upstream['name']}: at most {count} attempt{'' if count == 1 else 's'}")
    if told["health"] == "now":
        lines.append("  health    as the running gateway sees it now")
    else:
        note = f"; {told['note']}" if told.get("note") else ""
        lines.append(f"  health    as configured: no running gateway was asked{note}")
    if told["attempts"]:
        lines += ["", "  Attempts, were each of them to fail:", *_table(told["attempts"], "share")]
    for row in (*told["attempts"], *told["left_out"]):
        if row["misfit"]:
            lines.append(f"    {row['node']} cannot take it: {row['misfit']}")
        elif row["changes"]:
            lines.append(f"    changed for {row['node']}: {', '.join(row['changes'])}")
    if told["left_out"]:
        lines += ["", "  Not in this plan:", *_table(told["left_out"], "why")]
    lines += ["", *_rules(told)]
    return "\n".join(lines)


_PICKED_AS = {"trial": ", as its trial", "panic": ", only because no other is left"}


def _table(rows: list[dict[str, Any]], last: str) -> list[str]:
    """Attempts, or nodes that are left out, in columns."""
    cells = [[" ", "node", "tier", "weight", "model", "health"]]
    for row in rows:
        mapped = " (mapped)" if row["model_is_mapped"] else ""
        cells.append(
            [
                str(row.get("number", "-")),
                row["node"],
                str(row["tier"]),
                str(row["weight"]),
                f"{row['model'] or '-'}{mapped}",
                row["health"],
            ]
        )
    if last == "share":
        cells[0] += ["first choice", "content within"]
        for row, cell in zip(rows, cells[1:], strict=True):
            cell[5] += _PICKED_AS.get(row["picked_as"], "")
            cell += [f"{100 * row['share']:.4g} %", f"{row['content_within_s']:.4g} s"]
    else:
        cells[0].append("why")
        for row, cell in zip(rows, cells[1:], strict=True):
            cell.append(row["why"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "    " + "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _rules(told: dict[str, Any]) -> list[str]:
    upstream, deadlines = told["upstream"], told["deadlines"]
    lines = []
    if not upstream["moves_on_status"]:
        lines.append("  An error status is passed on: it moves no request (profile apisix).")
    if upstream["repeats_what_may_have_run"]:
        lines.append("  A request that a node may have run is sent to another one, once.")
    else:
        lines.append("  A request that a node may have run is not sent to another one.")
    if upstream["backup_ready"] is True:
        lines.append("  Failover would work now.")
    elif upstream["backup_ready"] is False:
        lines.append(f"  Failover would not work now: {'; '.join(upstream['reasons']) or 'no node is left'}.")
    times = ", ".join(f"{name.replace('_', ' ')} {seconds:g} s" for name, seconds in deadlines.items())
    lines.append(f"  Deadlines: {times}.")
    if not told["attempts"]:
        lines.append(f"  Answer: {told['answer']}.")
    return lines
