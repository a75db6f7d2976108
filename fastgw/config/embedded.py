"""The configuration of ``fastgw run`` without a file: both providers, each with its own key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_HEAD = """\
# What `fastgw run` uses when no file is given.
services:
  - name: LLM Service
    routes:
      - name: llm
        uris:
          - /v1/*
    upstream:
      scheme: https
      type: roundrobin
      nodes:
"""
_OPENAI = """\
        - host: api.openai.com
          port: 443
          weight: 100
          auth:
            header:
              Authorization: Bearer ${OPENAI_API_KEY}
"""
_DEEPSEEK = """\
        - host: api.deepseek.com
          port: 443
          weight: 1
          priority: -1
          auth:
            header:
              Authorization: Bearer ${DEEPSEEK_API_KEY}
"""
_CHECKS = """\
      checks:
        active:
          http_path: /
          healthy:
            successes: 1
          unhealthy:
            http_failures: 3
        passive:
          healthy:
            successes: 1
          unhealthy:
            http_failures: 3
"""

EMBEDDED: Final = _HEAD + _OPENAI + _DEEPSEEK + _CHECKS


def embedded(env: Mapping[str, str]) -> str:
    """``EMBEDDED``, without the provider whose key env has not. "" if it has neither key."""
    openai = _OPENAI if env.get("OPENAI_API_KEY") else ""
    deepseek = _DEEPSEEK if env.get("DEEPSEEK_API_KEY") else ""
    return _HEAD + openai + deepseek + _CHECKS if openai or deepseek else ""
