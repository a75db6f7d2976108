"""What a start shows on standard error: where to connect, what to paste, and which nodes there are."""

import os
import shlex
from collections import defaultdict
from dataclasses import dataclass
from typing import TextIO

from fastgw._version import __version__
from fastgw.cli.exposure import open_routes
from fastgw.cli.overrides import OFF
from fastgw.cli.source import PROVIDER_KEYS, Source
from fastgw.config.model import Config, NodeConfig, RouteConfig, UpstreamConfig

CHAT = "/v1/chat/completions"
MAX_SHOWN = 20  # of upstreams, of warnings: a banner is read, a list is printed by `check`


@dataclass(frozen=True, slots=True)
class Started:
    """What became of the addresses that were asked for."""

    listen: tuple[str, ...]
    admin: str | None  # None: off
    control: str | None = None  # of the simulated providers


class Ink:
    """Bold and colour, or nothing: for terminals only, and not where NO_COLOR asks for none."""

    def __init__(self, *, is_coloured: bool) -> None:
        self.is_coloured = is_coloured

    @classmethod
    def for_stream(cls, stream: TextIO) -> "Ink":
        is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        return cls(is_coloured=is_terminal and not os.environ.get("NO_COLOR"))

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.is_coloured else text

    def loud(self, text: str) -> str:
        return f"\x1b[1;33m{text}\x1b[0m" if self.is_coloured else text


def banner(config: Config, source: Source, started: Started, ink: Ink) -> str:
    """All of it, ending in a line break."""
    lines = [f"fastgw {__version__}  profile {config.profile.value}", ""]
    if notice := _notice(config, source):
        lines += [ink.loud(line) for line in _boxed(notice)] + [""]
    lines += [f"  listening on {ink.bold(url(address, scheme_of(config)))}" for address in started.listen]
    lines += _to_paste(config, source, started, ink)
    if source.is_simulated and started.control:
        lines += _to_break(started.control)
    lines += _nodes(config)
    lines.append(f"  admin    {url(started.admin) if started.admin else OFF}")
    if config.process.workers > 1:
        lines.append(f"  workers  {config.process.workers}")
    lines.append(f"  config   {config.file if source.file else 'embedded default'}")
    warnings = [*config.warnings, *process_warnings(config, source)]
    lines += [ink.loud(f"  warning  {warning}") for warning in warnings[:MAX_SHOWN]]
    if len(warnings) > MAX_SHOWN:
        lines.append(f"           and {len(warnings) - MAX_SHOWN} more: fastgw check")
    return "\n".join(lines) + "\n\n"


# --- Addresses --------------------------------------------------------------------------------


def url(address: str, scheme: str = "http") -> str:
    """An address as one can use it on this machine."""
    if address.startswith(("unix:", "fd:")):
        return address
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{scheme}://{host}:{port}"


def scheme_of(config: Config) -> str:
    """What clients speak on the listening addresses."""
    return "http" if config.process.tls is None else "https"


def _chat_route(config: Config) -> tuple[RouteConfig, str] | None:
    """The route a first request should take, and its path."""
    for route in config.routes:
        for uri in route.uris:
            if uri == CHAT or (uri.endswith("*") and CHAT.startswith(uri[:-1])):
                return route, CHAT
    for route in config.routes:
        for uri in route.uris:
            if uri.endswith("/chat/completions"):
                return route, uri
    return None


# --- Parts ------------------------------------------------------------------------------------


def _notice(config: Config, source: Source) -> list[str]:
    if source.is_simulated:
        where = "inside this process" if config.process.workers == 1 else "in a process beside these"
        return [
            "SIMULATED PROVIDERS",
            "There is no gateway.yaml, no OPENAI_API_KEY and no DEEPSEEK_API_KEY:",
            f"the answers come from stand-ins {where}. Nothing is sent anywhere.",
        ]
    if source.file is None and source.missing_keys:
        present = next(name for name in PROVIDER_KEYS if name not in source.missing_keys)
        return [
            "ONE PROVIDER ONLY",
            f"{source.missing_keys[0]} is not set, so only the provider of {present} is used:",
            "when it fails, nothing can take over.",
        ]
    return []


def _boxed(lines: list[str]) -> list[str]:
    width = max(map(len, lines))
    edge = "  +" + "-" * (width + 2) + "+"
    return [edge, *(f"  | {line:{width}} |" for line in lines), edge]


def _to_paste(config: Config, source: Source, started: Started, ink: Ink) -> list[str]:
    found = _chat_route(config)
    if found is None or not started.listen:
        return [""]
    route, path = found
    address = started.listen[0]
    is_open = (route.name or route.id) in open_routes(config)
    is_deepseek_first = _first_provider(route.upstream) == "deepseek"
    model = "deepseek-flash" if is_deepseek_first else "gpt-4o-mini"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    socket, base = "", url(address, scheme_of(config))
    if address.startswith("unix:"):
        socket, base = (
            f"--unix-socket {shlex.quote(address.removeprefix('unix:'))} ",
            f"{scheme_of(config)}://localhost",
        )
    lines = [""]
    if not socket:
        key = "unused" if is_open and not route.passthrough else "<your key>"
        lines += [
            ink.bold(f"  export OPENAI_BASE_URL={base}{path.removesuffix('/chat/completions')}"),
            f"  export OPENAI_API_KEY={key}",
        ]
    lines += [
        f"  curl {socket}{base}{path} -H 'Content-Type: application/json' \\",
        *([] if is_open else [f"       -H '{_key_header(route)}' \\"]),
        *([f"       -H 'Host: {route.hosts[0]}' \\"] if route.hosts and "*" not in route.hosts[0] else []),
        f"       -d '{body}'",
        "",
    ]
    return lines


def _key_header(route: RouteConfig) -> str:
    conf = next(plugin.conf for plugin in route.plugins if plugin.name == "key-auth")
    name = conf.get("header", "apikey")
    return f"{name}: {'Bearer ' if name.lower() == 'authorization' else ''}<your key>"


def _first_provider(upstream: UpstreamConfig | None) -> str | None:
    nodes = upstream.nodes if upstream is not None else ()
    return max(nodes, key=lambda node: (node.priority, node.weight)).provider if nodes else None


def _to_break(control: str) -> list[str]:
    fault = f"http://{control}/providers/openai/fault"
    return [
        "  break OpenAI, and ask again; then mend it:",
        f"""    curl -X PUT {fault} -d '{{"kind": "status", "status": 500}}'""",
        f"    curl -X DELETE {fault}",
        f"  every other way to break it: curl http://{control}/",
        "",
    ]


def _nodes(config: Config) -> list[str]:
    routes: dict[str, list[str]] = defaultdict(list)
    upstreams: dict[str, UpstreamConfig] = {}
    for route in config.routes:
        if route.upstream is not None:
            key = route.upstream.id or route.upstream.name
            upstreams[key] = route.upstream
            routes[key] += route.uris
    lines = []
    for key, upstream in list(upstreams.items())[:MAX_SHOWN]:
        more = " ..." if len(routes[key]) > 5 else ""
        lines.append(f"  {upstream.name}: {' '.join(routes[key][:5])}{more}")
        lines += nodes_table(upstream)
    if len(upstreams) > MAX_SHOWN:
        lines.append(f"  and {len(upstreams) - MAX_SHOWN} more upstreams")
    return [*lines, ""]


def nodes_table(upstream: UpstreamConfig) -> list[str]:
    """A line per node: the tier that is tried first comes first."""
    nodes = sorted(upstream.nodes, key=lambda node: -node.priority)
    width = max((len(node.name) for node in nodes), default=0)
    return [
        f"    tier {node.priority:<3} {node.name:{width}}  weight {node.weight:<4} {_speech(node)}".rstrip()
        for node in nodes
    ]


def _speech(node: NodeConfig) -> str:
    """The dialect, and what becomes of models' names."""
    maps = ", ".join(f"{asked} -> {used}" if used else f"{asked} as is" for asked, used in node.models[:3])
    more = ", ..." if len(node.models) > 3 else ""
    return f"{node.provider or '':8}  {maps}{more}".rstrip()


def process_warnings(config: Config, source: Source) -> list[str]:
    """What the surroundings of this process do to it."""
    found = []
    if source.is_simulated and (source.overrides.connect_to or source.overrides.ca_file):
        found.append("--connect-to and --ca-file are not used: these providers are simulated")
    if os.environ.get("SSLKEYLOGFILE"):
        found.append("SSLKEYLOGFILE is set: whoever reads that file can decrypt what is sent to providers")
    return found
