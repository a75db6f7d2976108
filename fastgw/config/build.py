"""Checked values -> the frozen model, with every default filled in; shared by both forms of file.

The grammar has been checked before. What it cannot say is checked here: things that must be
unique, exist, or agree. Values may be missing, because wrong ones were taken out; then a problem
is in the report and the result is thrown away.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from fastgw import pem
from fastgw.config import defaults, key_file
from fastgw.config.addresses import is_loopback, parse_connect_to, parse_host, parse_listen, with_port
from fastgw.config.marks import Document
from fastgw.config.model import (
    EMPTY,
    AccountCheck,
    ActiveCheck,
    ConsumerConfig,
    Deadlines,
    Keepalive,
    Mark,
    NodeConfig,
    PassiveCheck,
    PluginConfig,
    ProcessConfig,
    Profile,
    Timeouts,
    TlsConfig,
    UpstreamConfig,
)
from fastgw.config.problems import Path, Report, path_text, shown
from fastgw.secret import Secret

Values = dict[str, Any]

_EMPTY_CREDENTIAL = re.compile(r"\s*(?:bearer|basic)?\s*", re.IGNORECASE)
# Of header fields whose values are nobody's business.
_PRIVATE = re.compile(r"auth|cookie|credential|key|pass|secret|session|signature|token", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
AI_PLUGINS = ("ai-proxy", "ai-proxy-multi")  # they bring an upstream of their own


class Builder:
    """Makes the parts of a Config.

    Args:
        form: "adc" or "apisix": it selects defaults.
        base: the directory that relative paths start from.
        allows_exposed: files with keys are taken also if others may read them.
    """

    def __init__(
        self,
        document: Document,
        report: Report,
        *,
        profile: Profile,
        form: str,
        base: FilePath,
        allows_exposed: bool = False,
    ) -> None:
        self.document = document
        self.report = report
        self.profile = profile
        self.form = form
        self.base = base
        self.allows_exposed = allows_exposed
        self.is_llm = profile is Profile.LLM

    def error(self, path: Path, message: str, hint: str = "") -> None:
        """Note a mistake at the value that path leads to."""
        self.report.error(self.document.position(path), path, message, hint)

    def warning(self, path: Path, message: str, hint: str = "") -> None:
        self.report.warning(self.document.position(path), path, message, hint)

    def mark(self, path: Path) -> Mark:
        return Mark(self.report.file, *self.document.position(path), path_text(path))

    def shown(self, value: str, path: Path) -> str:
        """A value of the file for a message, unless it may be a secret."""
        return "a hidden value" if self.document.is_secret(path) else shown(value)

    def hidden(self, value: str, name: str, path: Path) -> str | Secret:
        """The value of a header field, a secret if its name says so or if it came from outside the file."""
        is_secret = path in self.document.expanded or _PRIVATE.search(name)
        return Secret(value) if is_secret else value

    # --- Upstreams ---

    def upstream(self, values: Values, path: Path, *, name: str, id: str) -> UpstreamConfig:
        """An ``upstream`` object. ``name`` and ``id`` hold unless the object has its own."""
        scheme = values.get("scheme", "http")
        timeout = self.timeouts(values, "timeout") or defaults.TIMEOUT[self.profile]
        upstream = UpstreamConfig(
            name=values.get("name", name),
            id=str(values.get("id", id)),
            nodes=self._nodes(
                values.get("nodes"), (*path, "nodes"), scheme, (values.get("checks") or {}).get("account")
            ),
            type=values.get("type", "roundrobin"),
            scheme=scheme,
            retries=whole(values, "retries", None),
            retry_timeout_s=float(values.get("retry_timeout", 0)),
            timeout=timeout,
            pass_host=values.get("pass_host", defaults.PASS_HOST[self.profile]),
            upstream_host=self._host(values, "upstream_host", path) or None,
            keepalive=self._keepalive(values.get("keepalive_pool")),
            active=self.active_check(values, path, scheme),
            passive=self._passive(values, path),
            ca_file=self.ca_file(values, path),
            mark=self.mark(path),
        )
        if (values.get("tls") or {}).get("verify") is False:
            self.warning(
                (*path, "tls", "verify"),
                "certificates are verified all the same",
                "use ca_file for a private CA",
            )
        return upstream

    def timeouts(self, values: Values, key: str) -> Timeouts | None:
        found = values.get(key)
        if not found:
            return None
        return Timeouts(*(float(found.get(part, 1)) for part in ("connect", "send", "read")))

    def _keepalive(self, values: Values | None) -> Keepalive:
        if values is None:
            return defaults.KEEPALIVE[self.profile]
        unwritten = defaults.KEEPALIVE_WRITTEN
        return Keepalive(
            size=whole(values, "size", unwritten.size),
            idle_timeout_s=float(values.get("idle_timeout", unwritten.idle_timeout_s)),
            requests=whole(values, "requests", unwritten.requests),
        )

    # --- Nodes ---

    def _nodes(self, values: Any, path: Path, scheme: str, account: Values | None) -> tuple[NodeConfig, ...]:
        if isinstance(values, dict):
            values = self._nodes_of_map(values, path)
        nodes: list[NodeConfig] = []
        names: dict[str, Path] = {}
        addresses: dict[str, Path] = {}
        for below, item in self.items(values, path):
            node = self._node(item, below, scheme, account)
            if node is not None:
                nodes.append(node)
                self.unique(addresses, with_port(node.host, node.port), below, "the node")
                self.unique(names, item.get("name"), (*below, "name"), "the node name")
        if self.document.is_written(path) and not values and path not in self.document.broken:
            if self.is_llm:
                self.error(path, "an upstream without nodes can answer nothing", "add a node")
            else:
                self.warning(path, "an upstream without nodes: its requests get 503")
        return tuple(nodes)

    def _nodes_of_map(self, values: Values, path: Path) -> list[Values]:
        """``{"host:port": weight}`` as a list. Paths of the entries keep the keys."""
        nodes = []
        for key, weight in values.items():
            host, colon, port = key.rpartition(":") if not key.endswith("]") else (key, "", "")
            if not colon or (":" in host and not host.startswith("[")):
                host, port = key, ""
            node: Values = {"host": host, "weight": weight, "@path": (*path, key)}
            if port:
                if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
                    self.error((*path, key), f"expected host:port, got {shown(key)}")
                    continue
                node["port"] = int(port)
            nodes.append(node)
        return nodes

    def _node(self, values: Values, path: Path, scheme: str, account: Values | None) -> NodeConfig | None:
        host = self._host(values, "host", path)
        port = whole(values, "port", _DEFAULT_PORTS[scheme] if self.form == "apisix" else None)
        if not host or port is None:
            return None
        implied, models = self.dialect(values, host)
        auth = values.get("auth") or {}
        node = NodeConfig(
            host=host,
            port=port,
            weight=whole(values, "weight", 1),
            priority=whole(values, "priority", 0),
            name=values.get("name") or with_port(host, port),
            provider=implied,
            dialect=implied if self.is_llm else values.get("provider"),
            auth_headers=self.credentials(auth, "header", path),
            auth_query=self.credentials(auth, "query", path),
            models=models,
            capabilities=tuple((values.get("capabilities") or {}).items()),
            strict=values.get("strict", False),
            timeout=self.timeouts(values, "timeout"),
            max_in_flight=whole(values, "max_in_flight", 0),
            ca_file=self.ca_file(values, path),
            account=self.account_check(account, values, implied) if auth else None,
            metadata=values.get("metadata") or EMPTY,
            mark=self.mark(path),
        )
        if scheme == "http" and port == 443:
            self.warning(path, "plain HTTP to port 443", "write scheme: https in the upstream")
        elif scheme == "http" and known_provider(host):
            self.warning(
                path, f"{host} would get its key in clear text", "write scheme: https in the upstream"
            )
        return node

    def dialect(self, values: Values, host: str) -> tuple[str | None, tuple[tuple[str, str | None], ...]]:
        """The provider and the model map of a node: as written, else what its host implies."""
        from fastgw.llm.dialect import DEFAULT_MODELS

        provider = values.get("provider") or known_provider(host)
        if "models" in values:
            return provider, tuple(values["models"].items())
        return provider, DEFAULT_MODELS[provider] if provider and self.is_llm else ()

    def account_check(
        self, of_upstream: Values | None, node: Values, provider: str | None
    ) -> AccountCheck | None:
        """How the credential of a node is checked; what the node itself says wins, field by field."""
        from fastgw.llm.dialect import DIALECTS

        of_node = (node.get("checks") or {}).get("account")
        written = (of_upstream or {}) | (of_node or {})
        is_wanted = self.is_llm or of_upstream is not None or of_node is not None
        if provider is None or not written.get("enabled", is_wanted):
            return None
        dialect = DIALECTS[provider]
        check = AccountCheck(
            models_path=written.get("models_path", dialect.models_path),
            balance_path=written.get("balance_path", dialect.balance_path),
        )
        times = {f"{name}_s": float(written[name]) for name in ("interval", "timeout") if name in written}
        check = replace(check, **times)  # type: ignore[arg-type]
        return check if check.models_path or check.balance_path else None

    def credentials(self, auth: Values, kind: str, path: Path) -> tuple[tuple[str, Secret], ...]:
        """The header fields or query arguments of an ``auth`` object below path."""
        found = []
        for name, value in (auth.get(kind) or {}).items():
            text = number_text(value)
            if _EMPTY_CREDENTIAL.fullmatch(text):
                below = (*path, "auth", kind, name)
                self.error(below, "this credential is empty", "is the variable set, but to nothing?")
            found.append((name, Secret(text)))
        return tuple(found)

    # --- Health checks ---

    def active_check(self, owner: Values, path: Path, scheme: str) -> ActiveCheck | None:
        """``checks.active`` of an upstream, or of an instance of ai-proxy-multi."""
        values = (owner.get("checks") or {}).get("active")
        if values is None:
            return None
        path = (*path, "checks", "active")
        healthy: Values | None = values.get("healthy")
        unhealthy: Values | None = values.get("unhealthy")
        kind = values.get("type") or ("https" if self.is_llm and scheme == "https" else "http")
        if kind == "http" and scheme == "https":
            self.warning(path, "probes of an https upstream in plain HTTP", "write type: https")
        if not self.is_llm and unhealthy is None:
            self.warning(
                path, "without `unhealthy` no unhealthy node is ever probed, so none comes back by itself"
            )
        host = self._host(values, "host", path)
        written, other = healthy or {}, unhealthy or {}
        return ActiveCheck(
            type=kind,
            timeout_s=float(values.get("timeout", 1)),
            concurrency=whole(values, "concurrency", 10),
            host=host or None,
            port=whole(values, "port", None),
            http_method=values.get("http_method", "GET"),
            http_path=values.get("http_path", "/"),
            verify=values.get("https_verify_certificate", True),
            req_headers=self._header_lines(values, path),
            healthy_interval_s=self._interval(healthy, unhealthy),
            healthy_statuses=self._statuses(written, defaults.ACTIVE.healthy_statuses),
            successes=whole(written, "successes", defaults.ACTIVE.successes),
            unhealthy_interval_s=self._interval(unhealthy, healthy),
            unhealthy_statuses=self._statuses(other, defaults.ACTIVE.unhealthy_statuses),
            http_failures=whole(other, "http_failures", defaults.ACTIVE.http_failures),
            tcp_failures=whole(other, "tcp_failures", defaults.ACTIVE.tcp_failures),
            timeouts=whole(other, "timeouts", defaults.ACTIVE.timeouts),
        )

    def _interval(self, own: Values | None, other: Values | None) -> float:
        """Seconds between probes. APISIX never runs a kind of probe whose object is absent; we always do."""
        if own is not None:
            return float(own.get("interval", 1))
        if not self.is_llm:
            return 0.0
        return float((other or {}).get("interval", 1))

    def _statuses(self, written: Values, unwritten: frozenset[int]) -> frozenset[int] | None:
        found = written.get("http_statuses")
        if found is not None:
            return frozenset(int(status) for status in found if status is not None)
        return None if self.is_llm else unwritten

    def _header_lines(self, values: Values, path: Path) -> tuple[tuple[str, str | Secret], ...]:
        pairs = []
        for key in ("req_headers", "http_request_headers"):
            for index, line in enumerate(values.get(key) or ()):
                name, _, value = (line or "").partition(":")
                pairs.append((name, self.hidden(value.strip(" \t"), name, (*path, key, index))))
        return tuple(pairs)

    def _passive(self, upstream: Values, path: Path) -> PassiveCheck | None:
        checks: Values = upstream.get("checks") or {}
        path = (*path, "checks")
        library = defaults.PASSIVE["apisix"]
        if "passive" not in checks:
            if self.is_llm or "active" not in checks:
                return None
            # Attempts that were followed by a retry count in APISIX even so.
            return PassiveCheck(
                frozenset(),
                library.successes,
                frozenset(),
                library.http_failures,
                library.tcp_failures,
                library.timeouts,
                False,
            )
        if not self.is_llm and not self.document.is_written((*path, "active")):
            self.error(
                (*path, "passive"), "passive checks need active ones", "APISIX refuses them alone; add active"
            )
        healthy: Values | None = checks["passive"].get("healthy")
        unhealthy: Values | None = checks["passive"].get("unhealthy")
        table = defaults.PASSIVE[self.form]
        good, bad = healthy or {}, unhealthy or {}
        never: frozenset[int] = frozenset()
        if self.is_llm:
            successes = table.successes if healthy is not None else defaults.BUILT_IN_SUCCESSES
            failures = (table.http_failures, table.tcp_failures, table.timeouts)
            if unhealthy is None:
                failures = (defaults.BUILT_IN_FAILURES,) * 3
        else:
            successes = table.successes if healthy is not None else library.successes
            failures = (table.http_failures, table.tcp_failures, table.timeouts)
            if unhealthy is None:
                failures = (library.http_failures, library.tcp_failures, library.timeouts)
        return PassiveCheck(
            healthy_statuses=self._statuses(good, table.healthy_statuses if healthy is not None else never),
            successes=whole(good, "successes", successes),
            unhealthy_statuses=self._statuses(
                bad, table.unhealthy_statuses if unhealthy is not None else never
            ),
            http_failures=whole(bad, "http_failures", failures[0]),
            tcp_failures=whole(bad, "tcp_failures", failures[1]),
            timeouts=whole(bad, "timeouts", failures[2]),
            connect_failure_ejects=self.is_llm and "tcp_failures" not in bad,
        )

    # --- Plugins, consumers ---

    def plugins(self, owner: Values, path: Path, id: str) -> dict[str, PluginConfig]:
        """The plugins that one object at path carries; ``id`` is that object's."""
        found = {}
        for name, conf in (owner.get("plugins") or {}).items():
            below = (*path, "plugins", name)
            normal = self._proxy_rewrite(conf, below) if name == "proxy-rewrite" else conf
            upstream = None
            if name in AI_PLUGINS:
                from fastgw.config.ai_proxy import upstream_of

                upstream = upstream_of(self, name, conf, below, owner=str(owner.get("name", id)), id=id)
                normal = {"_meta": conf["_meta"]} if "_meta" in conf else {}
            found[name] = PluginConfig(name, normal, upstream, self.mark(below))
        return found

    def upstream_by_plugin(self, plugins: tuple[PluginConfig, ...], path: Path) -> UpstreamConfig | None:
        """The upstream that one of a route's plugins brings; it takes the place of any other."""
        found = [plugin for plugin in plugins if plugin.upstream is not None]
        if len(found) > 1:
            self.error(
                path,
                "ai-proxy and ai-proxy-multi on one route",
                "one of them; _meta.disable hides a service's",
            )
        return found[0].upstream if found else None

    def _proxy_rewrite(self, conf: Values, path: Path) -> Values:
        """The conf with headers in the form with verbs: values are texts or lists of texts."""
        pairs = conf.get("regex_uri") or ()
        if len(pairs) % 2:
            self.error((*path, "regex_uri"), "expected pairs of a regular expression and its replacement")
        for index, pattern in enumerate(pairs):
            if index % 2 == 0 and isinstance(pattern, str) and not _is_regex(pattern):
                self.error((*path, "regex_uri", index), "not a regular expression")
        conf = {key: self._from_outside(value, (*path, key)) for key, value in conf.items()}
        headers = conf.get("headers")
        if not headers:
            return conf
        has_verbs = any(isinstance(headers.get(verb), (dict, list)) for verb in ("add", "set", "remove"))
        if not has_verbs:
            headers = {"set": headers}
        normal: Values = {}
        for verb in ("add", "set"):
            below = (*path, "headers", verb) if has_verbs else (*path, "headers")
            if headers.get(verb):
                normal[verb] = {
                    name: self._header_value(value, name, (*below, name))
                    for name, value in headers[verb].items()
                }
                for name in normal[verb]:
                    if name.lower() == "host":
                        self.error(
                            (*path, "headers"),
                            "Host is not set through headers",
                            "write host, or pass_host in the upstream",
                        )
        if headers.get("remove"):
            normal["remove"] = [name for name in headers["remove"] if name]
        return {**conf, "headers": normal}

    def _from_outside(self, value: Any, path: Path) -> Any:
        """A text or a list of texts, in which those that came from outside the file are secrets."""
        if isinstance(value, list):
            return [self._from_outside(item, (*path, index)) for index, item in enumerate(value)]
        return Secret(value) if isinstance(value, str) and path in self.document.expanded else value

    def _header_value(self, value: Any, name: str, path: Path) -> Any:
        """A text, or a list of texts for several lines."""
        if isinstance(value, list):
            items = [(index, item) for index, item in enumerate(value) if item is not None]
            return [self._header_value(item, name, (*path, index)) for index, item in items]
        return self.hidden(number_text(value), name, path)

    def consumers(self, values: Any, path: Path) -> tuple[ConsumerConfig, ...]:
        """The clients and their keys. Two with the same name or key are a mistake."""
        consumers: list[ConsumerConfig] = []
        names: dict[str, Path] = {}
        keys: dict[str, Path] = {}
        for below, item in self.items(values, path):
            name = item.get("username", "")
            if name and names.setdefault(name, below) != below:
                self.error(
                    (*below, "username"),
                    f"two consumers have the name {self.shown(name, (*below, 'username'))}",
                )
            own: list[Secret] = []
            for place, conf in self._key_confs(item, below):
                key = conf.get("key")
                if not key or (conf.get("_meta") or {}).get("disable"):
                    continue
                if keys.setdefault(key, place) != place:
                    line = self.document.position(keys[key])[0]
                    self.error((*place, "key"), "this key is in use already", f"first in line {line}")
                own.append(Secret(key))
            consumers.append(ConsumerConfig(name, tuple(own), self.mark(below)))
        return tuple(consumers)

    def _key_confs(self, consumer: Values, path: Path) -> list[tuple[Path, Values]]:
        found: list[tuple[Path, Values]] = []
        conf = (consumer.get("plugins") or {}).get("key-auth")
        if conf is not None:
            found.append(((*path, "plugins", "key-auth"), conf))
        for below, credential in self.items(consumer.get("credentials"), (*path, "credentials")):
            if credential.get("config") is not None:
                found.append(((*below, "config"), credential["config"]))
        return found

    # --- Routes ---

    def deadlines(self, values: Values | None) -> Deadlines:
        """A route's ``deadlines``.

        ``head`` and ``first_content`` hold for streams too unless those have their own.
        """
        if not values:
            return Deadlines()
        written = {f"{key}_s": float(value) for key, value in values.items()}
        for both in ("head", "first_content"):
            if f"{both}_s" in written:
                written.setdefault(f"{both}_stream_s", written[f"{both}_s"])
        return Deadlines(**written)

    def hosts(self, values: Any) -> tuple[str, ...]:
        return tuple(host.lower() for host in values or () if host)

    def uris(self, values: Any, path: Path, prefix: str = "") -> tuple[str, ...]:
        """Path patterns, with the service's prefix before them."""
        for index, uri in enumerate(values or ()):
            if uri and re.search(r"/:[A-Za-z_]", uri):
                self.error(
                    (*path, index), "path parameters (:name) are not supported", "write a prefix: /path/*"
                )
        return tuple(prefix + uri for uri in values or () if uri)

    # --- The process ---

    def process(self, values: Values | None, path: Path = ("fastgw",)) -> ProcessConfig:
        """The ``fastgw:`` object."""
        taken: Values = dict(defaults.PROCESS[self.profile])
        if not values:
            return ProcessConfig(**taken)
        for key, value in values.items():
            field = f"{key}_s" if f"{key}_s" in ProcessConfig.__dataclass_fields__ else key
            taken[field] = float(value) if field != key else value
        listen = taken.pop("listen", ())
        listen = [listen] if isinstance(listen, str) else [item for item in listen if item]
        taken["listen"] = tuple(listen)
        for address in listen:
            host = self._address(address, (*path, "listen"))
            if host and not is_loopback(host) and taken.get("allow_unauthenticated"):
                self.warning(
                    (*path, "allow_unauthenticated"),
                    "anybody who reaches this machine can use the providers' keys",
                )
        admin = taken.get("admin")
        if admin and admin != "off":
            host = self._address(admin, (*path, "admin"))
            if host and not is_loopback(host) and not self.document.is_written((*path, "admin_token")):
                self.error(
                    (*path, "admin"),
                    "an admin interface that others can reach needs a token",
                    "write admin_token",
                )
        if taken.get("admin_token"):
            taken["admin_token"] = Secret(taken["admin_token"])
        if taken.get("credentials_dir"):
            taken["credentials_dir"] = str((self.base / taken["credentials_dir"]).absolute())
        connections = []
        for index, text in enumerate(taken.pop("connect_to", ())):
            try:
                connections.append(parse_connect_to(text or ""))
            except ValueError as error:
                if text is not None:
                    self.error((*path, "connect_to", index), str(error))
        taken["connect_to"] = tuple(connections)
        taken["ca_file"] = self.ca_file(values, path)
        taken["tls"] = self._tls(taken.pop("tls", None), (*path, "tls"))
        return ProcessConfig(**taken)

    def _tls(self, values: Values | None, path: Path) -> TlsConfig | None:
        """The listeners' certificate."""
        if not values:
            return None
        certificate, key = (self.file(values, name, path) for name in ("certificate", "key"))
        if key and not self.allows_exposed and key_file.is_exposed(key):
            self.error((*path, "key"), key_file.EXPOSED, key_file.EXPOSED_HINT)
        elif certificate and key and (problem := pem.chain_problem(certificate, key)) is not None:
            self.error((*path, problem[0]), problem[1])
        return TlsConfig(certificate or "", key or "", str(values.get("min_version", "1.2")))

    def _address(self, text: str, path: Path) -> str | None:
        try:
            return parse_listen(text)[0]
        except ValueError as error:
            self.error(path, f"{error}, got {self.shown(text, path)}")
            return None

    # --- Parts ---

    def items(self, values: Any, path: Path) -> list[tuple[Path, Values]]:
        """The mappings of a list that are still there, with their paths."""
        if not isinstance(values, list):
            return []
        return [
            (item.pop("@path", (*path, index)), item)
            for index, item in enumerate(values)
            if isinstance(item, dict)
        ]

    def unique(self, seen: dict[str, Path], value: str | None, path: Path, what: str) -> None:
        """Note a mistake if value was seen before."""
        if value and seen.setdefault(value, path) != path:
            line = self.document.position(seen[value])[0]
            self.error(path, f"{what} {self.shown(value, path)} is used twice", f"first in line {line}")

    def _host(self, values: Values, key: str, path: Path) -> str:
        text = values.get(key)
        if not text:
            return ""
        try:
            return parse_host(text)
        except ValueError as error:
            self.error((*path, key), f"{error}, got {self.shown(text, (*path, key))}")
            return ""

    def ca_file(self, values: Values, path: Path) -> str | None:
        """The certificates of those who may vouch for a node."""
        file = self.file(values, "ca_file", path)
        if file is not None and (problem := pem.authorities_problem(file)) is not None:
            self.error((*path, "ca_file"), problem)
        return file

    def file(self, values: Values, key: str, path: Path) -> str | None:
        """A file that must be readable, relative to the configuration's directory."""
        name = values.get(key)
        if not name:
            return None
        try:
            file = (self.base / name).absolute()
            if not file.is_file() or not os.access(file, os.R_OK):
                self.error((*path, key), "no file that can be read has this name")
                return None
        except (OSError, ValueError):
            self.error((*path, key), "not a file name")
            return None
        return str(file)


def merged(*levels: dict[str, PluginConfig]) -> tuple[PluginConfig, ...]:
    """The plugins of several levels: a later one wins by name, whole; disabled ones are gone."""
    plugins: dict[str, PluginConfig] = {}
    for level in levels:
        plugins |= level
    return tuple(plugin for plugin in plugins.values() if not (plugin.conf.get("_meta") or {}).get("disable"))


def number_text(value: Any) -> str:
    """A header value as text: YAML's numbers are taken as they would be written."""
    return value if isinstance(value, str) else format(value)


def whole(values: Values, key: str, unwritten: Any) -> Any:
    """A whole number that may have been written as 3.0."""
    value = values.get(key, unwritten)
    return int(value) if isinstance(value, float) else value


def _is_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def known_provider(host: str) -> str | None:
    """The dialect that a public provider's host name implies."""
    from fastgw.llm.dialect import provider_of

    return provider_of(host)
