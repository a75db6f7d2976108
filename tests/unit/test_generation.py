"""From values to objects: what a node is sent, and what stays with it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import trustme

from fastgw._core import NodeTable
from fastgw.config import loads
from fastgw.config.model import Config
from fastgw.errors import ConfigError
from fastgw.generation import Builder, Generation, host_for
from fastgw.proxy.plan import NodeLink, RoutePlan
from fastgw.shared_state import SharedState
from fastgw.wire.resolver import Resolver
from fastgw.wire.tls import TlsContext

TWO_AT_ONE_PLACE = """\
services:
  - name: s
    routes:
      - name: r
        uris: [/ai]
        plugins:
          ai-proxy-multi:
            fallback_strategy: http_5xx
            max_retries: 5
            instances:
              - name: one
                provider: openai
                weight: 1
                auth: {query: {key: a b}, header: {X-Key: k}}
                override: {endpoint: "https://a.example/x?v=1"}
                checks: {active: {http_path: "/up?a=b", req_headers: ["X-A: 1"], healthy: {successes: 3}}}
              - name: two
                provider: deepseek
                weight: 1
                auth: {query: {key: a b}, header: {X-Key: k}}
                override: {endpoint: "http://a.example:443"}
"""


@pytest.fixture
def generation() -> Generation:
    return Builder(Resolver(), SharedState().node_table()).build(loads(TWO_AT_ONE_PLACE), None, number=1)


def plan(generation: Generation) -> RoutePlan:
    found: RoutePlan = generation.table.routes[0].plan
    return found


def links(generation: Generation) -> list[NodeLink]:
    return list(plan(generation).links)


def test_an_instance_is_asked_at_its_own_path_with_its_own_arguments(generation: Generation) -> None:
    one, two = links(generation)
    call = b"/v1/chat/completions"
    assert one.target(call) == b"/x?key=a+b&v=1"
    assert one.target(b"/v1/models?x=1") == b"/v1/models?x=1&key=a+b&v=1"
    assert two.target(call) == b"/chat/completions?key=a+b"
    assert two.target(b"/v1/embeddings") == b"/v1/embeddings?key=a+b"


def test_instances_at_one_place_with_one_key_are_two_nodes(generation: Generation) -> None:
    one, two = links(generation)
    assert one.node is not two.node
    assert one.pool is not two.pool  # one of them is without TLS
    assert (one.pool.tls is None, two.pool.tls is None) == (False, True)


def test_the_plugin_makes_an_llm_route_with_its_own_rules(generation: Generation) -> None:
    found = plan(generation)
    assert found.is_llm
    assert found.max_attempts == 6
    assert found.fallback is not None and found.fallback.lists(503)
    assert len(found.body_plugins) == 1


def test_only_instances_with_checks_are_probed_and_their_probes_sign_in(generation: Generation) -> None:
    (built,) = generation.upstreams.values()
    assert built.prober is not None
    (probed,) = built.prober.nodes
    assert probed.node.name == "one"
    assert probed.request == (
        b"GET /up?a=b&key=a+b&v=1 HTTP/1.1\r\nConnection: close\r\n"
        b"X-A: 1\r\nX-Key: k\r\nHost: a.example\r\n\r\n"
    )
    assert probed.thresholds is not None and probed.thresholds.successes == 3


def test_what_an_old_generation_trusted_goes_with_it(tmp_path: Path) -> None:
    builder = Builder(Resolver(), SharedState().node_table())
    text = (
        "services: [{name: s, upstream: {scheme: https, nodes: [{host: a.example, port: 1, weight: 1,"
        " ca_file: %s}]}, routes: [{name: r, uris: [/]}]}]"
    )
    files = [tmp_path / f"{number}.pem" for number in range(3)]
    generation = None
    for number, file in enumerate(files):
        trustme.CA().cert_pem.write_to_path(str(file))
        for _ in range(2):  # what does not change is kept
            generation = builder.build(loads(text % file), generation, number=number)
    gc.collect()
    trusted = [item.ca_file for item in gc.get_objects() if isinstance(item, TlsContext)]
    assert sorted(file for file in trusted if str(tmp_path) in str(file)) == [str(files[-1])]


def limited(limit: int, weight: int = 1, *others: str) -> Config:
    nodes = [f"{{host: a, port: 80, weight: {weight}, max_in_flight: {limit}}}"]
    nodes += [f"{{host: {host}, port: 80, weight: 1}}" for host in others]
    upstream = f"{{nodes: [{', '.join(nodes)}]}}"
    return loads(f"services: [{{name: s, routes: [{{name: r, uris: [/a]}}], upstream: {upstream}}}]")


@pytest.mark.parametrize("weight", [1, 2])
def test_only_a_whole_generation_changes_a_limit(weight: int) -> None:
    """A node's record is shared by its generations, and the old one is still in use."""
    builder = Builder(Resolver(), NodeTable(1))
    old = builder.build(limited(5), None, number=1)
    (node,) = old.nodes.values()
    with pytest.raises(ConfigError):
        builder.build(limited(1, weight, "b"), old, number=2)  # there is no room for b
    assert node.max_in_flight == 5
    new = builder.build(limited(1, weight), old, number=2)
    (other,) = new.nodes.values()
    assert (node.max_in_flight, other.max_in_flight, other.weight) == (1, 1, weight)


def test_a_node_with_an_ipv6_address_is_probed_by_its_whole_address() -> None:
    text = """\
services:
  - name: s
    upstream:
      scheme: https
      nodes: [{host: "2001:db8::1", port: 443, weight: 1}]
      checks: {active: {type: https, http_path: /up}}
    routes: [{name: r, uris: [/]}]
"""
    generation = Builder(Resolver(), SharedState().node_table()).build(loads(text), None, number=1)
    (built,) = generation.upstreams.values()
    assert built.prober is not None
    (probed,) = built.prober.nodes
    assert probed.pool.server_name == "2001:db8::1" == links(generation)[0].pool.server_name
    assert probed.request.endswith(b"\r\nHost: [2001:db8::1]\r\n\r\n")


def test_an_ipv6_address_written_for_host_stands_in_brackets() -> None:
    text = """\
services:
  - name: s
    upstream:
      scheme: https
      pass_host: rewrite
      upstream_host: "2001:db8::1"
      nodes: [{host: a.example, port: 443, weight: 1}]
    routes: [{name: r, uris: [/]}]
"""
    generation = Builder(Resolver(), SharedState().node_table()).build(loads(text), None, number=1)
    (built,) = generation.upstreams.values()
    assert links(generation)[0].pool.server_name == "2001:db8::1"
    assert host_for(built.config.nodes[0], built.config) == b"[2001:db8::1]"
