"""The control listener: faults switched from a shell while the simulator runs.

Plain HTTP on loopback only, and not for browsers: a request that carries ``Origin``, or a Host that is no
loopback name, is refused, so no page a developer visits can break or read anything here.
"""

import asyncio
import socket
from collections.abc import Mapping

import orjson

from fastgw.simulator.connection import Connection, Request
from fastgw.simulator.faults import PARAMETERS, Fault
from fastgw.simulator.provider import Provider
from fastgw.simulator.script import JSON, Answer, Framing, Script, compose

MAX_FAULT_BYTES = 1024 * 1024

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")

_HELP = """\
fastgw simulated providers: control

  GET    /providers                      both of them, with their faults and counters
  GET    /providers/NAME                 one of them: {names}
  PUT    /providers/NAME/fault           set a fault (JSON, below)
  DELETE /providers/NAME/fault           end it

  curl http://{address}/providers
  curl -X PUT http://{address}/providers/openai/fault -d '{{"kind": "refuse"}}'
  curl -X PUT http://{address}/providers/openai/fault \\
       -d '{{"kind": "status", "status": 429, "headers": {{"Retry-After": "3"}}, "paths": "api"}}'
  curl -X PUT http://{address}/providers/openai/fault -d '{{"kind": "reset_inside", "after": 3, "count": 1}}'
  curl -X DELETE http://{address}/providers/openai/fault

Kinds and their own parameters:

{kinds}

Every kind also takes probability and count; every kind but the first three takes
delay_s, paths (all, api, root), only_path, match, stream and reused.
"""


class _Playback:
    __slots__ = ("script",)

    def __init__(self, script: Script) -> None:
        self.script = script

    def sent(self, progress: int) -> None:
        """Nothing is recorded here."""

    def ended(self, is_complete: bool, by_peer: bool) -> None:
        """Nothing is recorded here."""


class Control:
    """The listener. It belongs to the event loop that started it."""

    is_early = False

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._all_gone: asyncio.Future[None] | None = None
        self.port = 0

    async def start(self, port: int) -> None:
        """Listen on loopback. OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        # Bound and listening first: uvloop says nothing of a port that was taken a moment ago.
        bound = socket.create_server(("127.0.0.1", port))
        bound.setblocking(False)
        self._server = await loop.create_server(lambda: Connection(self, loop), sock=bound)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close the listener and its connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._connections:
            self._all_gone = asyncio.get_running_loop().create_future()
            for connection in tuple(self._connections):
                connection.abort()
            await self._all_gone

    # --- What a connection asks ---------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Plain text it is."""
        self._connections.add(connection)

    def handshaken(self, succeeded: bool) -> None:
        """There is none."""

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if self._all_gone is not None and not self._connections and not self._all_gone.done():
            self._all_gone.set_result(None)

    def respond_early(self, request: Request) -> None:
        """Never."""

    def respond(self, request: Request) -> _Playback:
        """Answer a request."""
        framing = Framing(
            request.keep_alive, request.version == "1.1", request.method == "HEAD", request.served
        )
        return _Playback(compose(self._answer(request), framing))

    # --- Answering ----------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer:
        host = (request.header("host") or "").lower()
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        if name not in _LOOPBACK_NAMES:
            return _error(403, "the Host must be a loopback name")
        if request.header("origin") is not None or request.header("sec-fetch-site") not in (None, "none"):
            return _error(403, "not for web pages")
        method = "GET" if request.method == "HEAD" else request.method
        match request.path.strip("/").split("/"):
            case [""]:
                return self._help(host) if method == "GET" else _not_allowed("GET")
            case ["providers"]:
                if method != "GET":
                    return _not_allowed("GET")
                return _json({name: provider.status() for name, provider in self._providers.items()})
            case ["providers", name, *rest] if name in self._providers and rest in ([], ["fault"]):
                return self._provider(self._providers[name], method, request.body, of_fault=bool(rest))
        return _error(404, "see GET / for what there is")

    def _provider(self, provider: Provider, method: str, body: bytes, *, of_fault: bool) -> Answer:
        if method == "GET":
            status = provider.status()
            return _json(status["fault"] if of_fault else status)
        if not of_fault:
            return _not_allowed("GET")
        if method == "DELETE":
            provider.fault = None
        elif method == "PUT":
            if len(body) > MAX_FAULT_BYTES:
                return _error(413, "a fault that large is a mistake")
            try:
                provider.fault = Fault.from_json(orjson.loads(body))
            except orjson.JSONDecodeError as error:
                return _error(400, f"the body is no JSON: {error}")
            except ValueError as error:
                return _error(400, str(error))
        else:
            return _not_allowed("DELETE, GET, PUT")
        return _json(provider.status())

    def _help(self, host: str) -> Answer:
        kinds = "\n".join(
            f"  {kind.value:18} {', '.join(sorted(parameters)) or '-'}"
            for kind, parameters in PARAMETERS.items()
        )
        names = ", ".join(self._providers)
        return Answer(200, [_TEXT], _HELP.format(address=host, kinds=kinds, names=names).encode())


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, [JSON], orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def _error(status: int, message: str) -> Answer:
    return _json({"error": message}, status)


def _not_allowed(methods: str) -> Answer:
    answer = _error(405, f"only {methods}")
    answer.headers.append((b"allow", methods.encode()))
    return answer
