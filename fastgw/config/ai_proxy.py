"""``ai-proxy`` and ``ai-proxy-multi`` -> an upstream: each instance becomes a node of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from fastgw.config import defaults
from fastgw.config.addresses import parse_host
from fastgw.config.build import Builder, Values, whole
from fastgw.config.model import (
    EMPTY,
    AiProxyConfig,
    Fallback,
    InstanceConfig,
    Keepalive,
    NodeConfig,
    Profile,
    Timeouts,
    UpstreamConfig,
    read_only,
)
from fastgw.config.problems import Path
from fastgw.secret import Secret

_PORTS = {"http": 80, "https": 443}
_STRATEGIES: Final = {"http_429": frozenset((429,)), "http_5xx": frozenset(range(500, 600))}
_HOSTS: Final = {"openai": "api.openai.com", "deepseek": "api.deepseek.com"}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where an instance is. ``path`` None: that of the provider."""

    scheme: str
    host: str
    port: int
    path: str | None = None
    query: tuple[tuple[str, Secret], ...] = ()


def upstream_of(
    builder: Builder, plugin: str, conf: Values, path: Path, *, owner: str, id: str
) -> UpstreamConfig:
    """The upstream that a plugin's conf makes.

    Args:
        plugin: "ai-proxy", which is one instance itself, or "ai-proxy-multi".
        owner, id: name and id of the object that carries the plugin; the upstream has them, too.
    """
    nodes: list[NodeConfig] = []
    if plugin == "ai-proxy":
        single = {**conf, "name": f"ai-proxy-{conf.get('provider', '')}", "weight": 1}
        nodes += _node(builder, single, path)
    else:
        names: dict[str, Path] = {}
        for below, item in builder.items(conf.get("instances"), (*path, "instances")):
            builder.unique(names, item.get("name"), (*below, "name"), "the instance name")
            nodes += _node(builder, item, below)
    _warn(builder, conf, path)
    fallback, retries = _fallback(builder, conf, path)
    return UpstreamConfig(
        name=owner,
        id=id,
        nodes=tuple(nodes),
        scheme="https",
        retries=retries,
        timeout=_timeout(builder, conf),
        pass_host="node",
        keepalive=_keepalive(builder, conf),
        ai_proxy=AiProxyConfig(
            fallback=fallback,
            max_body_bytes=whole(conf, "max_req_body_size", 64 * 1024 * 1024),
            max_stream_s=conf.get("max_stream_duration_ms", 0) / 1000,
        ),
        mark=builder.mark(path),
    )


# --- One instance -------------------------------------------------------------------------------


def _node(builder: Builder, values: Values, path: Path) -> list[NodeConfig]:
    """The node of an instance; none if too little of it is right."""
    provider = values.get("provider")
    endpoint = _endpoint(builder, values, path)
    if provider is None or endpoint is None:
        return []
    override: Values = values.get("override") or {}
    auth: Values = values.get("auth") or {}
    _, models = builder.dialect(values, endpoint.host)
    arguments = dict(builder.credentials(auth, "query", path)) | dict(endpoint.query)
    node = NodeConfig(
        host=endpoint.host,
        port=endpoint.port,
        weight=whole(values, "weight", 1),
        priority=whole(values, "priority", 0),
        name=values.get("name", ""),
        provider=provider,
        dialect=provider,
        auth_headers=builder.credentials(auth, "header", path),
        auth_query=tuple(arguments.items()),
        models=models,
        capabilities=tuple((values.get("capabilities") or {}).items()),
        strict=values.get("strict", False),
        max_in_flight=whole(values, "max_in_flight", 0),
        ca_file=builder.ca_file(values, path),
        scheme=endpoint.scheme,
        active=builder.active_check(values, path, endpoint.scheme),
        # Where an endpoint was written, nobody knows what else is there.
        account=None if "endpoint" in override or not auth else builder.account_check(None, values, provider),
        instance=InstanceConfig(
            path=endpoint.path,
            options=read_only(values.get("options") or {}),
            max_tokens=whole(override.get("llm_options") or {}, "max_tokens", None),
            patches=_patches(override),
            patch_forced=bool(override.get("request_body_force_override")),
        ),
        mark=builder.mark(path),
    )
    return [node]


def _patches(override: Values) -> Any:
    patches = {
        kind: read_only(patch) for kind, patch in (override.get("request_body") or {}).items() if patch
    }
    return read_only(patches) if patches else EMPTY


def _endpoint(builder: Builder, values: Values, path: Path) -> _Endpoint | None:
    """Where an instance is: as written, else where its provider is."""
    provider = values.get("provider", "")
    written = (values.get("override") or {}).get("endpoint")
    below = (*path, "override", "endpoint")
    if written is None:
        if provider in _HOSTS:
            return _Endpoint("https", _HOSTS[provider], 443)
        if provider and not builder.document.is_written(below):
            builder.error(
                path, f"{provider} needs override.endpoint", "write override: {endpoint: https://HOST}"
            )
        return None
    try:
        url = urlsplit(written)
        endpoint = _parsed(url)
    except ValueError as error:
        # The text may hold a key, so it is not shown.
        builder.error(below, f"not the address of a provider: {error}")
        return None
    if endpoint.path is not None and endpoint.path.rstrip("/").endswith(("/v1", "/beta", "/api")):
        builder.warning(
            below,
            f"every call goes to the path {endpoint.path} itself",
            "write the whole path, as /v1/chat/completions, or none",
        )
    if endpoint.scheme == "http" and _HOSTS.get(provider) == endpoint.host:
        builder.warning(below, f"{endpoint.host} would get its key in clear text", "write https://")
    return endpoint


def _parsed(url: SplitResult) -> _Endpoint:
    """The parts of an endpoint. Raises ValueError."""
    if url.username is not None or url.password is not None:
        raise ValueError("credentials belong in auth")
    host = parse_host(url.hostname or "")
    port = url.port if url.port is not None else _PORTS[url.scheme]
    if port == 0:
        raise ValueError("port 0")
    query = tuple((name, Secret(value)) for name, value in parse_qsl(url.query, keep_blank_values=True))
    return _Endpoint(url.scheme, host, port, url.path if url.path not in ("", "/") else None, query)


# --- The plugin as a whole ------------------------------------------------------------------------


def _fallback(builder: Builder, conf: Values, path: Path) -> tuple[Fallback | None, int | None]:
    """(rule, retries): which failures are followed by another attempt, and by how many.

    Profile llm: statuses that are written decide which *answers* move on; without any, what each
    failure means does. A node that gave no answer at all is always left. Profile apisix: what is
    not written does not move on.
    """
    strategy = conf.get("fallback_strategy") or ()
    statuses = frozenset(
        whole({"": status}, "", 0) for status in conf.get("fallback_http_statuses") or () if status
    )
    for name in [strategy] if isinstance(strategy, str) else strategy:
        statuses |= _STRATEGIES.get(name, frozenset())
    retries = whole(conf, "max_retries", None)
    within_s = conf.get("retry_on_failure_within_ms", 0) / 1000
    if builder.profile is Profile.APISIX:
        return (Fallback(statuses, True, within_s), retries) if statuses else (None, 0)
    if statuses:
        builder.warning(
            path,
            "only the statuses that are written move a request on: an answer with another one, "
            "as 401 of a refused key, goes to the client",
            "without fallback_strategy each failure is judged by its meaning",
        )
        return Fallback(statuses, False, within_s), retries
    return (Fallback(None, False, within_s) if within_s else None), retries


def _timeout(builder: Builder, conf: Values) -> Timeouts | None:
    if "timeout" in conf:
        return Timeouts(*(conf["timeout"] / 1000,) * 3)
    return defaults.AI_TIMEOUT[builder.profile]


def _keepalive(builder: Builder, conf: Values) -> Keepalive:
    unwritten = defaults.AI_KEEPALIVE[builder.profile]
    idle_ms = conf.get("keepalive_timeout", unwritten.idle_timeout_s * 1000)
    return Keepalive(
        size=whole(conf, "keepalive_pool", unwritten.size),
        idle_timeout_s=idle_ms / 1000,
        requests=unwritten.requests if conf.get("keepalive", True) else 1,
    )


def _warn(builder: Builder, conf: Values, path: Path) -> None:
    """Of what is read and then left aside."""
    if conf.get("ssl_verify") is False:
        builder.warning(
            (*path, "ssl_verify"), "certificates are verified all the same", "use ca_file for a private CA"
        )
    if any((conf.get("logging") or {}).values()):
        builder.warning((*path, "logging"), "without effect", "the access log has a line for each request")
    if "semantic_opts" in conf:
        builder.warning((*path, "semantic_opts"), "without effect: there is no semantic balancer")
