"""What is known of each provider's dialect, as data: one row of `DIALECTS` a provider.

`adapter.py` puts requests into a dialect by what is written here; `model_map.py` has the models' names.
What a row leaves out is not touched: a provider that nothing is known of gets every request as it came.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .model_map import ModelMap as ModelMap
from .model_map import Pair as Pair

# What a node may or may not be able to take, as a configuration says it. What neither it nor the
# dialect mentions is sent, and the provider decides.
CAPABILITIES = (
    "images",
    "audio",
    "files",
    "embeddings",
    "tools",
    "json_schema",
    "n",
    "logprobs",
    "prefix",
)

# Parameters without which the same answer comes: for accounting, caching, speed and the like.
HARMLESS = frozenset(
    {
        "audio",  # says how to speak; that the answer is to be spoken is said by `modalities`
        "metadata",
        "modalities",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "user_id",
    }
)

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider speaks.

    Attributes:
        name: the value of a node's `provider`.
        hosts: a node with one of these hosts has this provider unless it says otherwise.
        models: the model map of a node that has none of its own.
        max_tokens: what it calls the limit of an answer; None: both names are known.
        roles: roles it does not know, and its own name for each.
        parameters: the top-level fields it documents for a chat; None: no list that is known whole.
            A request that was made for another provider loses the others.
        dropped: fields that are surely another provider's: they are taken out of every request.
        efforts: values of `reasoning_effort` that it has another word for.
        thinks: its models think unless told not to by `thinking`, and want the `reasoning_content`
            of an earlier turn back where that turn called a tool.
        keeps_reasoning: it knows `reasoning_content` in a history.
        plain_tools: its tools are functions without `strict`, and `tool_choice` names one at most.
        capabilities: what it surely can or cannot take; see `CAPABILITIES`.
        absent: endpoints it has not, as segments of a path.
        prefix_path: where it continues a message of which it is given the beginning; "" nowhere.
        limits_per_model: a rate limit is one model's, not the whole account's.
        fields: request header fields that only this provider gets.
        credentials: the same, of those that tell who the caller is.
        models_path: where its models are listed, free of charge, for the key that asks; None: unknown.
        balance_path: where it says whether the account can pay; None: it does not.
    """

    name: str
    hosts: frozenset[str] = frozenset()
    models: tuple[Pair, ...] = ()
    max_tokens: str | None = None
    roles: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    parameters: frozenset[str] | None = None
    dropped: frozenset[str] = frozenset()
    efforts: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    thinks: bool = False
    keeps_reasoning: bool = True
    plain_tools: bool = False
    capabilities: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    absent: frozenset[bytes] = frozenset()
    prefix_path: str = ""
    limits_per_model: bool = False
    fields: tuple[bytes, ...] = ()
    credentials: tuple[bytes, ...] = ()
    models_path: str | None = None
    balance_path: str | None = None


_OPENAI = Dialect(
    "openai",
    hosts=frozenset({"api.openai.com"}),
    limits_per_model=True,
    max_tokens="max_completion_tokens",
    dropped=frozenset({"thinking", "user_id"}),
    efforts=MappingProxyType({"max": "high", "ultra": "high"}),
    keeps_reasoning=False,
    capabilities=MappingProxyType({"prefix": False}),
    fields=(b"openai-beta",),
    credentials=(b"openai-organization", b"openai-project"),
    models_path="/v1/models",
)

_DEEPSEEK = Dialect(
    "deepseek",
    hosts=frozenset({"api.deepseek.com"}),
    # Names of another vendor would be refused with a 400: any model is better than none.
    models=(("deepseek-*", None), ("*", "deepseek-flash")),
    max_tokens="max_tokens",
    roles=MappingProxyType({"developer": "system"}),
    parameters=frozenset(
        {
            "frequency_penalty",
            "logprobs",
            "max_tokens",
            "messages",
            "model",
            "presence_penalty",
            "reasoning_effort",
            "response_format",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "thinking",
            "tool_choice",
            "tools",
            "top_logprobs",
            "top_p",
            "user_id",
        }
    ),
    dropped=HARMLESS - {"user_id"}
    | {"logit_bias", "n", "parallel_tool_calls", "seed", "verbosity", "web_search_options"},
    efforts=MappingProxyType(
        {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"},
    ),
    thinks=True,
    plain_tools=True,
    capabilities=MappingProxyType(
        {
            "images": False,
            "audio": False,
            "files": False,
            "embeddings": False,
            "functions": False,
            "json_schema": False,
            "n": False,
            "prefix": True,
        }
    ),
    absent=frozenset(
        {
            b"assistants",
            b"audio",
            b"batches",
            b"completions",  # but for chats, and below /beta
            b"embeddings",
            b"files",
            b"fine_tuning",
            b"images",
            b"moderations",
            b"realtime",
            b"threads",
            b"uploads",
            b"vector_stores",
            b"videos",
        }
    ),
    prefix_path="/beta/chat/completions",
    models_path="/models",
    balance_path="/user/balance",
)

_COMPATIBLE = Dialect(
    "openai-compatible",
    fields=(b"openai-beta",),
    credentials=(b"openai-organization", b"openai-project"),
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (_OPENAI, _DEEPSEEK, _COMPATIBLE)}

KNOWN_HOSTS: dict[str, str] = {host: dialect.name for dialect in DIALECTS.values() for host in dialect.hosts}
DEFAULT_MODELS: dict[str, tuple[Pair, ...]] = {dialect.name: dialect.models for dialect in DIALECTS.values()}


def provider_of(host: str) -> str | None:
    """Return the provider a host name implies, None when it is nobody's we know."""
    return KNOWN_HOSTS.get(host.lower().rstrip("."))
