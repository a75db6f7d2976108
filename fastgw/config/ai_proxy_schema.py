"""The configurations of ``ai-proxy`` and ``ai-proxy-multi`` as JSON Schema."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

PROVIDERS: Final = ("openai", "deepseek", "openai-compatible")
_PROVIDERS_LATER: Final = (
    *("aimlapi", "anthropic", "azure-openai", "openrouter"),
    *("gemini", "vertex-ai", "bedrock"),
)
# The calls that have a path of their own at each provider, by APISIX's names.
PROTOCOLS: Final = ("openai-chat", "openai-responses", "openai-embeddings")
_MAX_INSTANCES: Final = 1024  # what one selector takes


def _object(properties: Schema, *required: str, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def _integer(low: int, high: int, description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, "description": description, **more}


def _flag(description: str, default: bool) -> Schema:
    return {"type": "boolean", "description": description, "default": default}


def _unsupported(why: str) -> Schema:
    return {"not": {}, "x-unsupported": why}


_ANYTHING: Schema = {"type": "object", "description": "without effect here"}
_AUTH: Schema = _object(
    {
        "header": {"$ref": "#/$defs/auth_header", "description": "header fields for this instance alone"},
        "query": {"$ref": "#/$defs/auth_query", "description": "query arguments for this instance alone"},
        "gcp": _unsupported("signing in to Google Cloud is not supported"),
        "aws": _unsupported("signing requests for AWS is not supported"),
    },
    minProperties=1,
    description="the credentials of this instance; sent to it alone",
)
_OVERRIDE: Schema = _object(
    {
        "endpoint": {
            "type": "string",
            "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[\x21\x22\x24-\x7e]+$",
            "maxLength": 4096,
            "description": "where the provider is; a path in it is the path of every call",
            "x-expected": "http:// or https://, a host, and perhaps a port, a path and a query",
        },
        "llm_options": _object(
            {
                "max_tokens": _integer(
                    1, 2**31 - 1, "the limit of an answer, under the provider's name for it"
                )
            },
            description="settings that providers name differently",
        ),
        "request_body": _object(
            {
                **{
                    protocol: {"type": "object", "description": "merged into the bodies of such calls"}
                    for protocol in PROTOCOLS
                },
                "passthrough": {"type": "object", "description": "merged into the bodies of other calls"},
                "anthropic-messages": _unsupported("calls of this kind are not supported"),
                "bedrock-converse": _unsupported("calls of this kind are not supported"),
            },
            description="fields to merge into the request body, by kind of call",
        ),
        "request_body_force_override": _flag("request_body wins over what the client wrote", False),
    },
    description="what is different from the provider's usual",
)
# What an instance of ai-proxy-multi and the whole of ai-proxy have in common.
_TARGET: Schema = {
    "provider": {
        "type": "string",
        "enum": list(PROVIDERS),
        "x-later": list(_PROVIDERS_LATER),
        "description": "the dialect it speaks",
    },
    "auth": _AUTH,
    "options": {
        "type": "object",
        "properties": {
            "model": {
                "type": "string",
                "minLength": 1,
                "maxLength": 256,
                "description": "the model to ask for",
            }
        },
        "maxProperties": 100,
        "description": "fields that replace those of the request body",
    },
    "override": _OVERRIDE,
    "provider_conf": _unsupported("only of providers that are not supported"),
    "models": {"$ref": "#/$defs/models"},
    "capabilities": {"$ref": "#/$defs/capabilities"},
    "strict": _flag("it gets no request that would have to lose some of its meaning on the way", False),
    "max_in_flight": _integer(0, 1_000_000, "requests at a time; 0: no limit", default=0),
    "ca_file": {
        "type": "string",
        "minLength": 1,
        "maxLength": 4096,
        "description": "certificates to trust for this instance instead of the system's",
    },
}
_COMMON: Schema = {
    "timeout": _integer(1, 600_000, "for each of connecting, sending and reading, milliseconds"),
    "max_req_body_size": _integer(1, 2**40, "larger request bodies get 413, bytes", default=64 * 2**20),
    "max_stream_duration_ms": _integer(1, 86_400_000, "a streamed answer ends then, milliseconds"),
    "max_response_bytes": _unsupported("not supported yet"),
    "keepalive": _flag("use connections again", True),
    "keepalive_timeout": _integer(1000, 86_400_000, "an idle connection is kept, milliseconds"),
    "keepalive_pool": _integer(1, 65535, "idle connections kept per instance"),
    "ssl_verify": _flag("certificates are always verified", True),
    "streaming_flush_interval_ms": _integer(0, 86_400_000, "without effect: nothing is held back"),
    "logging": _object(
        {"summaries": _flag("without effect", False), "payloads": _flag("without effect", False)},
        description="without effect: the access log says as much",
    ),
    "_meta": {"$ref": "#/$defs/meta"},
}
_INSTANCE: Schema = _object(
    {
        "name": {
            "type": "string",
            "pattern": r"^[^\x00-\x20\x7f-\xa0](?:[^\x00-\x1f\x7f-\x9f]{0,98}[^\x00-\x20\x7f-\xa0])?$",
            "description": "name in logs, metrics and headers",
            "x-expected": "a name of 1 to 100 characters",
        },
        "priority": _integer(-(2**31), 2**31 - 1, "higher ones are used first", default=0),
        "weight": _integer(0, 2**31 - 1, "share of the traffic inside its priority"),
        "checks": _object(
            {
                "active": {"$ref": "#/$defs/active_check"},
                "passive": _unsupported("live requests are watched without it, in profile llm"),
            },
            "active",
            description="probes of this instance; they carry its auth",
        ),
        "examples": {"type": "array", "description": "of the semantic balancer; without effect"},
        "threshold": {"type": "number", "description": "of the semantic balancer; without effect"},
        **_TARGET,
    },
    "name",
    "provider",
    "weight",
    "auth",
    **{"x-hints": {"model": "write options: {model: name}", "endpoint": "write override: {endpoint: ...}"}},
)
_STRATEGIES: Final = ("http_429", "http_5xx")

AI_PROXY: Final[Schema] = _object(
    {**_TARGET, **_COMMON},
    "provider",
    "auth",
    **{
        "x-hints": {
            "instances": "several instances are of ai-proxy-multi",
            "model": "write options: {model: name}",
            "endpoint": "write override: {endpoint: ...}",
        }
    },
)
AI_PROXY_MULTI: Final[Schema] = _object(
    {
        "instances": {
            "type": "array",
            "items": {"$ref": "#/$defs/ai-instance"},
            "minItems": 1,
            "maxItems": _MAX_INSTANCES,
            "description": "the providers",
        },
        "balancer": _object(
            {
                "algorithm": {
                    "type": "string",
                    "enum": ["roundrobin"],
                    "x-later": ["chash", "semantic"],
                    "default": "roundrobin",
                    "description": "how an instance is chosen: weighted round robin",
                },
                "hash_on": {"type": "string", "description": "of chash alone; without effect here"},
                "key": {"type": "string", "description": "of chash alone; without effect here"},
            },
            description="how the instances share the traffic",
        ),
        "fallback_strategy": {
            "type": ["string", "array"],
            "if": {"type": "string"},
            "then": {"type": "string", "enum": ["instance_health_and_rate_limiting", *_STRATEGIES]},
            "else": {
                "items": {"type": "string", "enum": ["rate_limiting", *_STRATEGIES]},
                "uniqueItems": True,
            },
            "description": "which answers move a request to another instance",
        },
        "fallback_http_statuses": {
            "type": "array",
            "items": {"type": "integer", "minimum": 400, "maximum": 599},
            "minItems": 1,
            "uniqueItems": True,
            "description": "statuses that do so, too",
        },
        "max_retries": _integer(0, 65535, "attempts after the first; until all were tried if absent"),
        "retry_on_failure_within_ms": _integer(
            1, 86_400_000, "an attempt that failed later than this is not followed by another, milliseconds"
        ),
        "semantic_opts": _ANYTHING,
        **_COMMON,
    },
    "instances",
)
AI_INSTANCE: Final[Schema] = _INSTANCE
