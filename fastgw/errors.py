"""Every failure the gateway knows, by source, HTTP status and retryability.

Lower layers raise or hand up these types; the exchange decides on the type, never on a text.
Foreign exceptions (``ssl``, ``OSError``, httptools) are mapped to them at the border and kept
as ``__cause__``.  Nothing here names an address or a key: messages may reach a caller.
"""

from enum import Enum, IntEnum


class Source(Enum):
    """Whose fault a failure is; only ``NODE`` failures touch a node's health."""

    CLIENT = "client"
    NODE = "node"
    GATEWAY = "gateway"


class Retryable(Enum):
    """May the same request be attempted again after this failure?"""

    NEVER = "never"
    ALWAYS = "always"  # nothing of the request can have been processed
    UNCERTAIN = "uncertain"  # the node may have run it; see the replay rules
    IF_REUSED = "if_reused"  # certain only if the connection had served before


class FailureKind(IntEnum):
    """The three failure counters of a node. The numbers are those of ``_core``."""

    HTTP = 1
    TCP = 2
    TIMEOUT = 3


class FastgwError(Exception):
    """Base of all of them. ``code`` is the ``code`` field of the error body a caller may see."""

    source = Source.GATEWAY
    status = 500
    code = "internal_error"
    kind = "api_error"  # the ``type`` field of OpenAI's error body
    retryable = Retryable.NEVER

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class ConfigError(FastgwError):
    """The configuration was refused."""

    code = "bad_configuration"


# --- The client's -----------------------------------------------------------------------------


class ClientError(FastgwError):
    """A request the gateway refuses; the connection may have to close."""

    source = Source.CLIENT
    status = 400
    code = "bad_request"
    kind = "invalid_request_error"
    closes = False  # a syntax error makes the rest of the byte stream meaningless
    is_of_head = False  # a HEAD request's, of which there is no head that says so


class ProtocolError(ClientError):
    """The bytes are not one well-formed HTTP/1.1 message."""

    closes = True

    def __init__(self, message: str = "", status: int = 400, code: str = "bad_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class BodyTooLarge(ClientError):
    """The request body is larger than this gateway accepts."""

    status = 413
    code = "request_too_large"
    closes = True


class ClientTimeout(ClientError):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"
    closes = True


class NoNodeFits(ClientError):
    """No provider of this route can take a request of this kind."""

    code = "unsupported_by_providers"


class TooManyConnections(ClientError):
    """This client has as many connections open as one client may have."""

    status = 429
    code = "gateway_limit"
    kind = "rate_limit_error"
    closes = True


class NoRoute(ClientError):
    """No route matches this method, host and path."""

    status = 404
    code = "route_not_found"


# --- A node's ---------------------------------------------------------------------------------


class NodeError(FastgwError):
    """An attempt on a node failed; ``failure`` says which counter of the node it moves."""

    source = Source.NODE
    status = 502
    code = "upstream_bad_response"
    retryable = Retryable.UNCERTAIN
    failure = FailureKind.TCP


class ConnectFailed(NodeError):
    """No connection to the provider could be made."""

    code = "upstream_connect_failed"
    retryable = Retryable.ALWAYS
    is_local = False  # this machine is out of descriptors or ports: no fault of the node


class ResolveFailed(ConnectFailed):
    """The provider's name has no address."""

    code = "upstream_unresolved"


class TlsFailed(ConnectFailed):
    """The TLS handshake with the provider failed, or its certificate is not trusted."""

    code = "upstream_tls_failed"


class ConnectTimeout(ConnectFailed):
    """Connecting to the provider took too long."""

    status = 504
    code = "upstream_timeout"
    failure = FailureKind.TIMEOUT


class ConnectionLost(NodeError):
    """The provider closed the connection before its answer was whole."""

    code = "upstream_reset"
    retryable = Retryable.IF_REUSED


class BadResponse(NodeError):
    """The provider's answer is not valid HTTP, or not a valid answer."""

    failure = FailureKind.HTTP


class EmptyAnswer(BadResponse):
    """The provider said success and then gave no answer."""

    code = "upstream_empty_answer"


class StreamError(BadResponse):
    """The provider reported an error inside a stream that had begun with success."""

    code = "upstream_stream_error"


class NodeTimeout(NodeError):
    """The provider was silent for too long."""

    status = 504
    code = "upstream_timeout"
    failure = FailureKind.TIMEOUT


class FoundOut(NodeError):
    """The provider was found to be out while this attempt was waiting for it."""

    status = 504
    code = "upstream_timeout"


# --- The gateway's ----------------------------------------------------------------------------


class NoNodeAvailable(FastgwError):
    """No provider is available right now; ``retry_after`` is the earliest known recovery, seconds."""

    status = 503
    code = "no_upstream"
    kind = "service_unavailable_error"

    def __init__(self, message: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(NoNodeAvailable):
    """Every provider of this model has asked for a pause."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class DeadlineExceeded(FastgwError):
    """The request's total deadline passed."""

    status = 504
    code = "upstream_timeout"


class Overloaded(FastgwError):
    """The gateway is short of memory; it can be asked again in a moment."""

    status = 503
    code = "overloaded"
    kind = "service_unavailable_error"


class Draining(FastgwError):
    """The gateway is shutting down."""

    status = 503
    code = "shutting_down"
    kind = "service_unavailable_error"
