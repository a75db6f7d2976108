"""The plugins' configurations as JSON Schema, and the names of those that fastgw does not have."""

from __future__ import annotations

from typing import Any, Final

from fastgw.config.ai_proxy_schema import AI_INSTANCE, AI_PROXY, AI_PROXY_MULTI

Schema = dict[str, Any]

TOKEN: Final[Schema] = {
    "type": "string",
    "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$",
    "x-expected": "a header name",
}

_META: Schema = {
    "type": "object",
    "properties": {
        "disable": {
            "type": "boolean",
            "description": "true: as if the plugin were not there",
            "default": False,
        },
        "priority": {
            "type": "integer",
            "description": "order among the plugins of the same route; higher runs first",
        },
        "filter": {"not": {}, "x-unsupported": "conditions on plugins are not supported yet"},
        "error_response": {"not": {}, "x-unsupported": "not supported yet"},
        "pre_function": {"not": {}, "x-unsupported": "Lua is not supported"},
    },
    "additionalProperties": False,
}

# --- proxy-rewrite ------------------------------------------------------------------------------

_VALUE: Schema = {
    "type": ["string", "number"],
    "pattern": r"^[\t\x20-\x7e\x80-\xff]*$",
    "x-expected": "a header value without line breaks or control characters",
}
_VALUES: Schema = {
    **_VALUE,
    "type": ["string", "number", "array"],
    "items": _VALUE,
    "minItems": 1,
    "x-expected": "a header value without line breaks or control characters, or a list of them",
}
_VALUE_MAP: Schema = {
    "type": "object",
    "propertyNames": TOKEN,
    "additionalProperties": _VALUES,
    "maxProperties": 100,
}
_HEADERS: Schema = {
    "type": "object",
    "minProperties": 1,
    # One of the verbs with a collection in it: the form with verbs. Else a flat map, which means set.
    "if": {
        "anyOf": [
            {"properties": {verb: {"type": ["object", "array"]}}, "required": [verb]}
            for verb in ("add", "set", "remove")
        ]
    },
    "then": {
        "properties": {
            "add": {**_VALUE_MAP, "description": "header lines to add"},
            "set": {**_VALUE_MAP, "description": "headers to replace"},
            "remove": {
                "type": "array",
                "items": TOKEN,
                "maxItems": 100,
                "description": "headers to take away",
            },
        },
        "additionalProperties": False,
    },
    "else": _VALUE_MAP,
    "description": "changes to the request headers, in the order add, set, remove; a flat map means set",
}
_REWRITE_METHODS = [
    *("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL"),
    *("COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK", "PATCH", "TRACE"),
]
_PROXY_REWRITE: Schema = {
    "type": "object",
    "properties": {
        "uri": {
            "type": "string",
            "pattern": r"^/[^\x00-\x20\x7f]*$",
            "maxLength": 4096,
            "description": "new path, may contain $variables",
            "x-expected": "a path that begins with /",
        },
        "regex_uri": {
            "type": "array",
            "items": {"type": "string", "maxLength": 4096},
            "minItems": 2,
            "maxItems": 100,
            "description": "pairs of a regular expression and its replacement; the first match is used",
        },
        "method": {"type": "string", "enum": _REWRITE_METHODS, "description": "new method"},
        "host": {
            "type": "string",
            "pattern": r"^[0-9A-Za-z.-]+(?::[0-9]{1,5})?$",
            "description": "new Host",
            "x-expected": "a host name, with :port if it needs one",
        },
        "headers": _HEADERS,
        "use_real_request_uri_unsafe": {
            "type": "boolean",
            "default": False,
            "description": "send the client's path as it came",
        },
        "_meta": _META,
    },
    "anyOf": [
        {"required": [field]}
        for field in ("uri", "regex_uri", "method", "host", "headers", "use_real_request_uri_unsafe")
    ],
    "x-expected": "at least one of uri, regex_uri, method, host, headers",
    "additionalProperties": False,
}

# --- key-auth -----------------------------------------------------------------------------------

_KEY_AUTH: Schema = {
    "type": "object",
    "properties": {
        "header": {**TOKEN, "default": "apikey", "description": "header that carries the key"},
        "query": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "default": "apikey",
            "description": "query argument that carries the key, if the header is absent",
        },
        "realm": {
            "type": "string",
            "pattern": r"^[\x20\x21\x23-\x5b\x5d-\x7e]{1,256}$",
            "default": "key",
            "description": "realm of WWW-Authenticate",
            "x-expected": "a realm without quotes and backslashes",
        },
        "hide_credentials": {
            "type": "boolean",
            "description": "take the key out of the request: by default where no credentials are passed on",
        },
        "anonymous_consumer": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "the consumer that a request without a valid key counts as",
        },
        "_meta": _META,
    },
    "additionalProperties": False,
}
_KEY_AUTH_CONSUMER: Schema = {
    "type": "object",
    "properties": {
        "key": {"type": "string", "minLength": 1, "maxLength": 4096, "description": "the client's key"},
        "_meta": _META,
    },
    "required": ["key"],
    "additionalProperties": False,
}

SUPPORTED: Final = ("proxy-rewrite", "key-auth", "ai-proxy", "ai-proxy-multi")
PLUGINS: Final[dict[str, Schema]] = {
    "plugins": {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in SUPPORTED},
        "additionalProperties": False,
        "description": "plugins by name",
    },
    "proxy-rewrite": _PROXY_REWRITE,
    "key-auth": _KEY_AUTH,
    "key-auth-consumer": _KEY_AUTH_CONSUMER,
    "ai-proxy": AI_PROXY,
    "ai-proxy-multi": AI_PROXY_MULTI,
    "ai-instance": AI_INSTANCE,
    "meta": _META,
}

_NOT_YET = """
acl ai-aliyun-content-moderation ai-aws-content-moderation ai-cache ai-content-moderation ai-lakera-guard
ai-prompt-decorator ai-prompt-guard ai-prompt-template ai-rag ai-rate-limiting ai-request-rewrite
api-breaker attach-consumer-label authz-casbin authz-casdoor authz-keycloak aws-lambda
azure-functions basic-auth batch-requests body-transformer brotli cas-auth chaitin-waf clickhouse-logger
client-control consumer-restriction cors csrf datadog degraphql dubbo-proxy echo elasticsearch-logger
error-log-logger error-page example-plugin ext-plugin-post-req ext-plugin-post-resp ext-plugin-pre-req
fault-injection file-logger forward-auth gm google-cloud-logging graphql-limit-count grpc-transcode grpc-web
gzip hmac-auth http-dubbo http-logger inspect ip-restriction jwe-decrypt jwt-auth kafka-logger kafka-proxy
lago ldap-auth limit-conn limit-count limit-req log-rotate loggly loki-logger mcp-bridge mocking multi-auth
node-status oas-validator ocsp-stapling opa openfunction openid-connect opentelemetry openwhisk prometheus
proxy-buffering proxy-cache proxy-control proxy-mirror public-api real-ip redirect referer-restriction
request-id request-validation response-rewrite rocketmq-logger saml-auth server-info
serverless-post-function serverless-pre-function skywalking skywalking-logger sls-logger splunk-hec-logging
syslog tcp-logger tencent-cloud-cls traffic-label traffic-split ua-restriction udp-logger uri-blocker
wolf-rbac workflow zipkin
"""
NOT_YET: Final = frozenset(_NOT_YET.split())
