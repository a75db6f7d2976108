"""The configuration's grammar, as JSON Schema (2020-12): one set of data for loading and for editors.

Keywords of our own, removed from what ``json_schema`` hands out:

x-expected     what to say was expected, where the bare keyword would not tell a human
x-unsupported  a field that APISIX knows and fastgw does not: why, or what to do instead
x-hints        for keys that belong elsewhere: what to write instead
x-later        values that APISIX knows and fastgw does not
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.config.addresses import HOST_PATTERN
from fastgw.config.ai_proxy_schema import PROVIDERS as PROVIDERS
from fastgw.config.plugin_schemas import PLUGINS, TOKEN

Schema = dict[str, Any]

METHODS: Final = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE")
CAPABILITIES: Final = {
    "images": "pictures in messages",
    "audio": "sound in messages and answers",
    "files": "files in messages",
    "embeddings": "the endpoint for embeddings",
    "tools": "tools",
    "json_schema": "answers by a JSON schema; false: it is asked for JSON, and told the schema",
    "n": "several answers to one request",
    "logprobs": "probabilities of tokens",
    "prefix": "going on with a message that was begun",
}
MAX_NODES: Final = 1024  # what one selector takes


def _object(
    properties: Schema, required: tuple[str, ...] = (), *, hints: dict[str, str] | None = None, **more: Any
) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **({"x-hints": hints} if hints else {}),
        **more,
    }


def _ref(name: str, description: str = "") -> Schema:
    return {"$ref": f"#/$defs/{name}"} | ({"description": description} if description else {})


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _integer(low: int, high: int | None = None, description: str = "", **more: Any) -> Schema:
    limits = {"minimum": low} | ({} if high is None else {"maximum": high})
    return {"type": "integer", **limits, "description": description, **more}


def _seconds(description: str, *, or_zero: bool = False, **more: Any) -> Schema:
    low = {"minimum": 0} if or_zero else {"exclusiveMinimum": 0}
    return {"type": "number", **low, "maximum": 86400, "description": f"{description}, seconds", **more}


def _text(description: str = "", low: int = 1, high: int = 65536, **more: Any) -> Schema:
    return {"type": "string", "minLength": low, "maxLength": high, "description": description, **more}


def _flag(description: str, **more: Any) -> Schema:
    return {"type": "boolean", "description": description, **more}


def _choice(*values: str, description: str = "", later: tuple[str, ...] = (), **more: Any) -> Schema:
    known = {"x-later": list(later)} if later else {}
    return {"type": "string", "enum": list(values), "description": description, **known, **more}


def _unsupported(why: str = "not supported yet") -> Schema:
    """A field that is known, and refused because ignoring it would do something else than it says."""
    return {"not": {}, "x-unsupported": why}


def _only_empty(why: str = "not supported yet") -> Schema:
    """The same, but an empty list or mapping says nothing and is accepted."""
    return {"type": ["array", "object"], "maxItems": 0, "maxProperties": 0, "x-unsupported": why}


# --- Shared by both forms -----------------------------------------------------------------------

_HOST = {
    "type": "string",
    "pattern": HOST_PATTERN,
    "maxLength": 253,
    "x-expected": "a host name or IP address, without scheme, port or path",
}
_ROUTE_HOST = {
    "type": "string",
    "pattern": r"^(?:\*\.)?[A-Za-z0-9_\[][A-Za-z0-9._:\[\]-]{0,252}$",
    "x-expected": "a host name, or *.name for all names below it",
}
_ID_TEXT = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9_.-]{1,256}$",
    "x-expected": "an id of letters, digits, _ . and -",
}
_ID = {**_ID_TEXT, "type": ["string", "integer"], "minimum": 1}
_LABELS = {
    "type": "object",
    "additionalProperties": {"type": ["string", "array"], "items": {"type": "string"}},
    "description": "for tools; without effect here",
}
_HEADER_VALUE = {
    "type": ["string", "number"],
    "pattern": r"^[\t\x20-\x7e\x80-\xff]*$",
    "x-expected": "a header value without line breaks or control characters",
}
_HEADER_MAP = {
    "type": "object",
    "propertyNames": TOKEN,
    "additionalProperties": _HEADER_VALUE,
    "maxProperties": 50,
}
_MODELS = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 256},
    "additionalProperties": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
    "maxProperties": 1000,
    "description": "asked model (a glob) -> model of this node; null: as asked",
}
_TIMEOUT = _object(
    {
        "connect": _seconds("until connected"),
        "send": _seconds("without progress while sending"),
        "read": _seconds("of silence while reading"),
    },
    ("connect", "send", "read"),
    description="overrides the deadlines of the same kind",
)
_STATUSES = _list(
    {"type": "integer", "minimum": 200, "maximum": 599},
    minItems=1,
    uniqueItems=True,
    description="status codes",
)
_CHECK_TYPE = _choice("http", "https", "tcp", description="kind of probe")


def _thresholds(low: int, interval: bool) -> tuple[Schema, Schema]:
    """The ``healthy`` and ``unhealthy`` objects of a check."""
    every = (
        {"interval": _integer(1, 86400, "time between probes, whole seconds", default=1)} if interval else {}
    )
    healthy = {
        "http_statuses": _STATUSES,
        "successes": _integer(low, 254, "successes in a row that make a node healthy"),
    }
    unhealthy = {
        "http_statuses": _STATUSES,
        "http_failures": _integer(low, 254, "failing answers that make a node unhealthy"),
        "tcp_failures": _integer(low, 254, "failed connections that make a node unhealthy"),
        "timeouts": _integer(low, 254, "timeouts that make a node unhealthy"),
    }
    return _object(every | healthy), _object(every | unhealthy)


def _checks() -> dict[str, Schema]:
    healthy, unhealthy = _thresholds(1, interval=True)
    lines = _list(
        {
            "type": "string",
            "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}:[\t\x20-\x7e\x80-\xff]*$",
            "x-expected": '"Name: value"',
        },
        minItems=1,
        maxItems=50,
        description='header lines of the probe, "Name: value"',
    )
    active = _object(
        {
            "type": _CHECK_TYPE,
            "timeout": _seconds("each probe may take", default=1),
            "concurrency": _integer(1, 1000, "probes at a time", default=10),
            "host": {
                **_HOST,
                "description": "Host header and TLS name of the probe, for nodes given by address",
            },
            "port": _integer(1, 65535, "port to probe instead of the node's"),
            "http_method": _choice(*METHODS, description="method of the probe", default="GET"),
            "http_path": {
                "type": "string",
                "pattern": r"^/[\x21-\x7e]*$",
                "maxLength": 4096,
                "default": "/",
                "x-expected": "a path that begins with /",
            },
            "http_req_body": {
                "type": "string",
                "maxLength": 0,
                "x-unsupported": "probes with a body are not supported",
            },
            "https_verify_certificate": _flag("check the certificate of the node", default=True),
            "req_headers": lines,
            "http_request_headers": lines,
            "healthy": {**healthy, "description": "probes of healthy nodes"},
            "unhealthy": {**unhealthy, "description": "probes of unhealthy nodes"},
        },
        description="probes",
    )
    healthy, unhealthy = _thresholds(0, interval=False)
    passive = _object(
        {"type": _CHECK_TYPE, "healthy": healthy, "unhealthy": unhealthy},
        description="what the outcomes of live requests do to a node",
    )
    return {
        "checks": _object(
            {"active": _ref("active_check"), "passive": passive, "account": _ref("account_check")},
            description="health checks",
        ),
        "active_check": active,
    }


def _account_check() -> Schema:
    path = {
        "type": ["string", "null"],
        "pattern": r"^/[\x21-\x7e]*$",
        "maxLength": 4096,
        "x-expected": "a path that begins with /, or null",
    }
    return _object(
        {
            "enabled": _flag("false: no such checks"),
            "interval": _seconds("between checks that found nothing wrong", default=60),
            "timeout": _seconds("each request of a check may take", default=10),
            "models_path": {**path, "description": "where the models are listed; null: do not ask"},
            "balance_path": {**path, "description": "where the balance is told; null: do not ask"},
        },
        description="free requests that tell whether the keys of LLM providers work",
    )


def _node() -> Schema:
    return _object(
        {
            "host": {**_HOST, "description": "host name or address"},
            "port": _integer(1, 65535, "TCP port"),
            "weight": _integer(0, 2**31 - 1, "share of the traffic inside its priority"),
            "priority": _integer(-(2**31), 2**31 - 1, "higher ones are used first", default=0),
            "metadata": {"type": "object", "description": "kept, without effect"},
            "name": {
                "type": "string",
                "pattern": r"^[A-Za-z0-9._:\[\]-]{1,128}$",
                "description": "name in logs, metrics and headers; host:port if absent",
                "x-expected": "a name of letters, digits, . _ : and -",
            },
            "auth": _object(
                {
                    "header": _ref("auth_header"),
                    "query": _ref("auth_query"),
                },
                minProperties=1,
                description="the credentials of this node; sent to it alone",
            ),
            "provider": _choice(*PROVIDERS, description="the dialect it speaks; known hosts imply it"),
            "models": _ref("models"),
            "capabilities": _ref("capabilities"),
            "strict": _flag(
                "it gets no request that would have to lose some of its meaning on the way", default=False
            ),
            "timeout": _ref("timeout"),
            "max_in_flight": _integer(0, 1_000_000, "requests at a time; 0: no limit", default=0),
            "ca_file": _text("certificates to trust for this node instead of the system's", high=4096),
            "checks": _object(
                {"account": _ref("account_check")}, description="how this node differs from its upstream"
            ),
        },
        ("host", "port", "weight"),
        hints={
            "address": "write host and port",
            "url": "write host and port; the scheme is a field of the upstream",
            "scheme": "scheme is a field of the upstream",
            "api_key": 'write auth: {header: {Authorization: "Bearer ${NAME}"}}',
            "model": 'write models: {"*": name}',
        },
    )


def _upstream(form: str) -> Schema:
    nodes = _list(
        _ref(f"{form}_node"),
        maxItems=MAX_NODES,
        description="the servers",
    )
    if form == "apisix":  # {"host:port": weight} is older, and still in many files
        nodes["type"] = ["array", "object"]
        nodes["maxProperties"] = MAX_NODES
        nodes["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    return _object(
        {
            "name": _text("name in logs and metrics"),
            "labels": _LABELS,
            "type": _choice(
                "roundrobin",
                description="how a node is chosen: weighted round robin",
                default="roundrobin",
                later=("chash", "ewma", "least_conn"),
            ),
            "hash_on": _text("of chash alone; without effect here"),
            "key": _text("of chash alone; without effect here"),
            "checks": _ref("checks"),
            "nodes": nodes,
            "scheme": _choice(
                "http",
                "https",
                description="how all nodes are spoken to",
                default="http",
                later=("grpc", "grpcs", "tcp", "tls", "udp", "kafka"),
            ),
            "retries": _integer(0, 65535, "attempts after the first; nodes - 1 if absent"),
            "retry_timeout": _seconds(
                "no retry begins later than this; 0: no limit", or_zero=True, default=0
            ),
            "timeout": _ref("timeout"),
            "tls": _object(
                {
                    "verify": _flag("certificates are always verified"),
                    "client_cert": _unsupported("client certificates are not supported yet"),
                    "client_key": _unsupported("client certificates are not supported yet"),
                    "client_cert_id": _unsupported("client certificates are not supported yet"),
                }
            ),
            "keepalive_pool": _object(
                {
                    "size": _integer(1, 65535, "idle connections kept per node", default=320),
                    "idle_timeout": _seconds("an idle connection is kept", or_zero=True, default=60),
                    "requests": _integer(1, 2**31 - 1, "requests on one connection", default=1000),
                }
            ),
            "pass_host": _choice("pass", "node", "rewrite", description="which Host the nodes see"),
            "upstream_host": {**_HOST, "description": "the Host of pass_host: rewrite"},
            "ca_file": _text("certificates to trust for these nodes instead of the system's", high=4096),
            "service_name": _unsupported("service discovery is not supported: list the nodes"),
            "discovery_type": _unsupported("service discovery is not supported: list the nodes"),
            "discovery_args": _unsupported("service discovery is not supported: list the nodes"),
        }
        | _description(form),
        ("nodes",),
    ) | {
        "if": {"properties": {"pass_host": {"const": "rewrite"}}, "required": ["pass_host"]},
        "then": {"required": ["upstream_host"]},
    }


def _description(form: str) -> Schema:
    """What ADC calls description is desc in apisix.yaml, which also has times and more."""
    if form == "adc":
        return {"description": _text("for readers", low=0)}
    return {
        "desc": _text("for readers", low=0),
        "create_time": {"type": "integer"},
        "update_time": {"type": "integer"},
    }


_DEADLINES = _object(
    {
        "connect": _seconds("DNS, TCP and TLS together", default=5),
        "head": _seconds("until the head of an answer", default=120),
        "head_stream": _seconds("the same for stream: true", default=30),
        "first_content": _seconds("until the first content of an answer", default=120),
        "first_content_stream": _seconds("the same for stream: true", default=60),
        "progress": _seconds("between content and content of a stream", default=60),
        "idle": _seconds("between bytes", default=120),
        "node_write": _seconds("a node may take no bytes", default=30),
        "client_write": _seconds("a client may take no bytes", default=120),
        "total": _seconds("the whole exchange", default=600),
        "tunnel_idle": _seconds("between bytes of a WebSocket connection, either way", default=600),
    },
    description="time limits of this route",
)


def _route(form: str) -> Schema:
    uris = _list(
        {
            "type": "string",
            "pattern": r"^/[\x21\x22\x24-\x29\x2b-\x3e\x40-\x7e]*\*?$",
            "maxLength": 4096,
            "x-expected": "/path, or /path* for everything that begins with it",
        },
        minItems=1,
        uniqueItems=True,
        description="paths: /a is that path, /a* everything that begins with it",
    )
    hosts = _list(_ROUTE_HOST, minItems=1, uniqueItems=True, description="host names; any if absent")
    methods = _list(_choice(*METHODS), minItems=1, uniqueItems=True, description="methods; any if absent")
    shared = {
        "name": _text("name in logs and metrics"),
        "labels": _LABELS,
        "hosts": hosts,
        "methods": methods,
        "uris": uris,
        "priority": _integer(-(2**31), 2**31 - 1, "orders routes with one and the same path", default=0),
        "timeout": _ref("timeout"),
        "enable_websocket": _flag("let WebSocket upgrades through", default=False),
        "plugins": _ref("plugins"),
        "vars": _only_empty("conditions (vars) are not supported yet"),
        "filter_func": _unsupported("Lua is not supported"),
        "remote_addrs": _only_empty("conditions on the client's address are not supported yet"),
        "on_context_length": _choice(
            "answer",
            "move",
            description="what becomes of a request that is too long for the model of a node",
            default="answer",
        ),
        "on_stream_failure": _choice(
            "end",
            "resume",
            description="what becomes of a stream that breaks after content was sent",
            default="end",
        ),
        "replayable": _flag(
            "may a request that a node possibly ran be sent to another; by method and path if absent"
        ),
        "passthrough": _flag("send the client's own credentials to the nodes", default=False),
        "deadlines": _DEADLINES,
    } | _description(form)
    if form == "adc":
        return _object(
            shared | {"id": _ID_TEXT},
            ("name", "uris"),
            hints={
                "uri": "write uris: [...]",
                "host": "write hosts: [...]",
                "desc": "write description",
                "upstream": "the upstream is a field of the service",
                "status": "ADC has no status; remove the route instead",
            },
        )
    return _object(
        shared
        | {
            "id": _ID,
            "uri": uris["items"],
            "host": _ROUTE_HOST,
            "status": {"type": "integer", "enum": [0, 1], "description": "0: as if absent", "default": 1},
            "remote_addr": _unsupported("conditions on the client's address are not supported yet"),
            "plugin_config_id": _ID,
            "script": _unsupported("Lua is not supported"),
            "script_id": _unsupported("Lua is not supported"),
            "upstream": _ref("apisix_upstream"),
            "upstream_id": _ID,
            "service_id": _ID,
        }
    )


# --- ADC ----------------------------------------------------------------------------------------

_CONSUMER_PLUGINS = _object(
    {"key-auth": _ref("key-auth-consumer")},
    description="the plugins that know this consumer",
)


def _adc_service() -> Schema:
    return _object(
        {
            "id": _ID_TEXT,
            "name": _text("name in logs and metrics"),
            "description": _text("for readers", low=0),
            "labels": _LABELS,
            "upstream": _ref("adc_upstream"),
            "upstreams": _only_empty("more than one upstream in a service is not supported yet"),
            "plugins": _ref("plugins"),
            "path_prefix": {
                "type": "string",
                "pattern": r"^/[\x21\x22\x24-\x29\x2b-\x3e\x40-\x7e]*$",
                "maxLength": 4096,
                "description": "goes before every path of the service's routes",
                "x-expected": "a path that begins with /, without *",
            },
            "strip_path_prefix": _flag("nodes see the path without path_prefix", default=False),
            "hosts": _list(_ROUTE_HOST, uniqueItems=True, description="host names of routes that have none"),
            "routes": _list(_ref("adc_route"), description="what requests this service takes"),
            "stream_routes": _only_empty("TCP and UDP routes are not supported"),
        },
        ("name",),
        hints={
            "uris": "paths belong to a route: routes: [{name: ..., uris: [...]}]",
            "nodes": "nodes belong to the upstream: upstream: {nodes: [...]}",
            "upstream_id": "that is apisix.yaml's form; here the upstream is written in the service",
            "desc": "write description",
        },
    )


def _adc_consumer() -> Schema:
    credential = _object(
        {
            "id": _ID_TEXT,
            "name": _text("name of the credential"),
            "description": _text("for readers", low=0),
            "labels": _LABELS,
            "type": _choice(
                "key-auth",
                description="the plugin that takes it",
                later=("basic-auth", "jwt-auth", "hmac-auth"),
            ),
            "config": _ref("key-auth-consumer"),
        },
        ("name", "type", "config"),
    )
    return _object(
        {
            "username": _text("who this client is, in logs and headers", high=256),
            "description": _text("for readers", low=0),
            "labels": _LABELS,
            "plugins": _CONSUMER_PLUGINS,
            "credentials": _list(credential),
        },
        ("username",),
    )


def _bytes(description: str, default: int) -> Schema:
    return _integer(1024, 2**40, f"{description}, bytes", default=default)


_ADDRESS = {
    "type": "string",
    "minLength": 1,
    "maxLength": 4096,
    "x-expected": "HOST:PORT or unix:PATH",
}
_PROCESS = _object(
    {
        "listen": {
            **_ADDRESS,
            "type": ["string", "array"],
            "items": _ADDRESS,
            "minItems": 1,
            "maxItems": 64,
            "uniqueItems": True,
            "description": "where clients connect: HOST:PORT or unix:PATH, or a list of them",
            "default": "127.0.0.1:9080",
        },
        "admin": {
            **_ADDRESS,
            "description": "where the admin interface listens, or off",
            "default": "127.0.0.1:9180",
        },
        "admin_token": _text(
            "what the admin interface asks for; needed unless it listens on loopback", 16, 1024
        ),
        "credentials_dir": _text("directory of the files that ${credential:NAME} stands for", high=4096),
        "workers": _integer(1, 64, "worker processes", default=1),
        "drain": _seconds("streams may go on after a stop", or_zero=True, default=30),
        "access_log": _text('file of the access log, "-" for standard output, or off', high=4096),
        "log_level": _choice("debug", "info", "warning", "error", description="least level of messages"),
        "log_format": _choice("text", "json", description="form of messages and of the access log"),
        "tls": _object(
            {
                "certificate": _text(
                    "PEM file: the certificate, and those between it and its root", high=4096
                ),
                "key": _text("PEM file: the certificate's key, not encrypted", high=4096),
                "min_version": {
                    "type": ["string", "number"],
                    "enum": ["1.2", "1.3", 1.2, 1.3],
                    "x-expected": "1.2 or 1.3",
                    "description": "least version of TLS",
                    "default": "1.2",
                },
            },
            required=("certificate", "key"),
            description="clients speak TLS on every address of listen",
        ),
        "ca_file": _text("certificates to trust instead of the system's, for all nodes", high=4096),
        "connect_to": _list(
            {"type": "string", "maxLength": 1024, "x-expected": "HOST:PORT:HOST2:PORT2"},
            maxItems=1024,
            description="curl's --connect-to: connect to HOST2:PORT2 instead of HOST:PORT",
        ),
        "account_checks": _flag("false: no requests of our own to check keys", default=True),
        "dead_reprobe": _seconds("until a rejected key is tried again; doubles", default=60),
        "cooling_max": _seconds("a busy node is left alone at most", default=600),
        "retry_budget_percent": {
            "type": "number",
            "minimum": 0,
            "maximum": 100,
            "description": "retries to nodes that are failing, of all requests; 0: no limit",
            "default": 20,
        },
        "slow_start": _seconds(
            "a node that was out takes to get back its whole share", or_zero=True, default=10
        ),
        "hold_body_bytes": _bytes("a request body up to this size can move to another node", 16 * 2**20),
        "hold_total_bytes": _bytes("all held bodies together", 256 * 2**20),
        "max_body_bytes": _bytes("larger request bodies get 413", 64 * 2**20),
        "hold_answer_bytes": _bytes("a non-streamed answer up to this size is held until it is whole", 2**20),
        "max_line_bytes": _bytes("longer request lines get 414", 16 * 2**10),
        "max_head_bytes": _bytes("larger request heads get 431", 32 * 2**10),
        "max_fields": _integer(8, 10_000, "header fields of a request", default=100),
        "memory_limit": _integer(
            0, 2**50, "bytes one worker may take: from 80 % on new requests get 503; 0: no limit", default=0
        ),
        "max_connections": _integer(1, 10_000_000, "client connections at a time", default=10_000),
        "max_connections_per_client": _integer(
            0, 10_000_000, "of one client address at a time; 0: no limit", default=0
        ),
        "head_timeout": _seconds("a client may take for its request head", default=10),
        "body_stall": _seconds("a client may send no byte of its body", default=30),
        "min_body_rate": _integer(
            0, 2**30, "bytes a second, over 30 seconds, below which a body gets 408; 0: any", default=256
        ),
        "keepalive": _seconds("an idle client connection is kept", or_zero=True, default=75),
        "allow_unauthenticated": _flag("serve clients of other machines without a key", default=False),
        "response_headers": _flag("add x-fastgw-upstream and its kin to answers", default=True),
    },
    description="settings of the process",
)
_OURS: Schema = {
    "profile": _choice(
        "llm", "apisix", description="which defaults fill in what is not written", default="llm"
    ),
    "fastgw": _ref("process"),
}
_ADC_FILE = _object(
    {
        "services": _list(_ref("adc_service"), description="what is served"),
        "consumers": _list(_ref("adc_consumer"), description="the clients that have keys"),
        "ssls": _only_empty("a listener's certificate is written as fastgw: {tls: {...}}"),
        "consumer_groups": _only_empty(),
        "global_rules": _only_empty(),
        "plugin_metadata": _only_empty(),
    }
    | _OURS,
    hints={
        "upstream": "an upstream belongs to a service: services: [{name: ..., upstream: {...}}]",
        "nodes": "nodes belong to the upstream of a service",
        "listen": "write fastgw: {listen: ...}",
        "admin": "write fastgw: {admin: ...}",
    },
)

# --- apisix.yaml --------------------------------------------------------------------------------

_APISIX_TIMES: Schema = {"create_time": {"type": "integer"}, "update_time": {"type": "integer"}}
_APISIX_SERVICE = _object(
    {
        "id": _ID,
        "name": _text("name in logs and metrics"),
        "desc": _text("for readers", low=0),
        "labels": _LABELS,
        "plugins": _ref("plugins"),
        "upstream": _ref("apisix_upstream"),
        "upstream_id": _ID,
        "script": _unsupported("Lua is not supported"),
        "enable_websocket": _flag("let WebSocket upgrades through", default=False),
        "hosts": _list(
            _ROUTE_HOST, minItems=1, uniqueItems=True, description="host names of routes that have none"
        ),
    }
    | _APISIX_TIMES,
    hints={"routes": "here routes stand beside services and name theirs with service_id"},
)
_APISIX_CONSUMER = _object(
    {
        "username": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_-]{1,256}$",
            "x-expected": "a name of letters, digits, _ and -",
        },
        "desc": _text("for readers", low=0),
        "labels": _LABELS,
        "plugins": _CONSUMER_PLUGINS,
        "group_id": _unsupported("consumer groups are not supported yet"),
    }
    | _APISIX_TIMES,
    ("username",),
)
_APISIX_FILE = _object(
    {
        "routes": _list(_ref("apisix_route"), description="what requests are taken"),
        "services": _list(_ref("apisix_service"), description="settings that routes share"),
        "upstreams": _list(_ref("apisix_shared_upstream"), description="sets of nodes that are used by id"),
        "consumers": _list(_ref("apisix_consumer"), description="the clients that have keys"),
        "plugin_configs": _list(
            _object(
                {
                    "id": _ID,
                    "name": _text(),
                    "desc": _text(low=0),
                    "labels": _LABELS,
                    "plugins": _ref("plugins"),
                }
                | _APISIX_TIMES,
                ("plugins",),
            ),
            description="sets of plugins that routes use by id",
        ),
        "plugins": _list({"type": ["string", "object"]}, description="accepted, without effect"),
        "consumer_groups": _only_empty(),
        "global_rules": _only_empty(),
        "plugin_metadata": _only_empty(),
        "ssls": _only_empty("a listener's certificate is written as fastgw: {tls: {...}}"),
        "stream_routes": _only_empty("TCP and UDP routes are not supported"),
        "protos": _only_empty("gRPC transcoding is not supported"),
        "secrets": _only_empty("secret managers are not supported yet"),
    }
    | _OURS
)


def _apisix_node() -> Schema:
    node = _node()
    return {**node, "required": ["host", "weight"]}


def _apisix_shared_upstream() -> Schema:
    upstream = _upstream("apisix")
    return {**upstream, "properties": {"id": _ID} | upstream["properties"]}


def _apisix_upstream() -> Schema:
    """In a route or service: APISIX takes an id here too, and does nothing with it."""
    return _apisix_shared_upstream()


DEFINITIONS: Final[dict[str, Schema]] = {
    "adc_file": _ADC_FILE,
    "adc_service": _adc_service(),
    "adc_route": _route("adc"),
    "adc_upstream": _upstream("adc"),
    "adc_node": _node(),
    "adc_consumer": _adc_consumer(),
    "apisix_file": _APISIX_FILE,
    "apisix_service": _APISIX_SERVICE,
    "apisix_route": _route("apisix"),
    "apisix_upstream": _apisix_upstream(),
    "apisix_shared_upstream": _apisix_shared_upstream(),
    "apisix_node": _apisix_node(),
    "apisix_consumer": _APISIX_CONSUMER,
    **_checks(),
    "account_check": _account_check(),
    "auth_header": _HEADER_MAP,
    "auth_query": {**_HEADER_MAP, "propertyNames": {"minLength": 1, "maxLength": 256}},
    "models": _MODELS,
    "capabilities": _object(
        {name: _flag(text) for name, text in CAPABILITIES.items()},
        description="what it can take, where that is not as its provider is known for",
    ),
    "timeout": _TIMEOUT,
    "process": _PROCESS,
    **PLUGINS,
}

_APISIX_KEYS = ("routes", "upstreams", "plugin_configs", "stream_routes", "protos", "secrets", "plugins")


def is_apisix_form(data: Schema, text: str) -> bool:
    """Is this the form of ``apisix.yaml`` rather than ADC's ``services:`` with routes inside?"""
    return any(key in data for key in _APISIX_KEYS) or has_end_mark(text)


def has_end_mark(text: str) -> bool:
    """Does the text end with the ``#END`` that completes an ``apisix.yaml``?"""
    return text.rstrip().endswith("#END")


def json_schema() -> Schema:
    """The grammar for editors: as used for loading, but numbers and switches may be ``${NAME}``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastgw configuration",
        "if": {"anyOf": [{"required": [key]} for key in _APISIX_KEYS]},
        "then": {"$ref": "#/$defs/apisix_file"},
        "else": {"$ref": "#/$defs/adc_file"},
        "$defs": _for_editors(DEFINITIONS),
    }


def _for_editors(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_for_editors(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _for_editors(value) for key, value in schema.items() if not key.startswith("x-")}
    kind = plain.get("type")
    if kind in ("integer", "number", "boolean"):
        plain["type"] = [kind, "string"]
        plain["pattern"] = r"^-?[0-9.]+$|\$" if kind != "boolean" else r"\$"
    if schema.get("x-unsupported"):
        plain["description"] = schema["x-unsupported"]
    if plain.get("description") == "":
        del plain["description"]
    return plain
