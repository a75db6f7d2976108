"""What is measured: fastgw, and what one would put in its place. Each in a module, all started alike."""

from .envoy import Envoy
from .fastgw import Fastgw
from .haproxy import HAProxy
from .litellm import LiteLLM
from .nginx import Nginx
from .peer import Peer, Unavailable
from .relay import Relay
from .vllm_router import VllmRouter

PEERS: tuple[type[Peer], ...] = (Fastgw, Nginx, HAProxy, Relay, Envoy, VllmRouter, LiteLLM)

__all__ = ["PEERS", "Peer", "Unavailable"]
