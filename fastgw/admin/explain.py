"""What would become of a request: its route, its plugins, and the attempts in their order, with reasons.

Nothing is decided here: the route table, the route's plan, the model maps and the selector that serve
requests are asked. The selector works on copies of the nodes, so that asking changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._core import Node, PickKind, Tried
from ..balancing.deadlines import attempt_deadline
from ..balancing.retry import endpoint_of, is_replayable
from ..balancing.upstream import Upstream
from ..config.model import RouteConfig
from ..generation import BuiltUpstream, Generation
from ..llm.body import scan
from ..llm.outcome import scopes_of
from ..proxy.plan import NodeLink, RoutePlan
from .readiness import Readiness

_COPY_S = 1.0  # so long a copy stays out whose original is out for a reason that has no end of its own


@dataclass(frozen=True, slots=True)
class Question:
    """A request as far as it decides anything; ``target`` has the path and perhaps a query.

    ``model`` is the one the body asks for, None if it names none. ``is_replayable`` tells whether it
    may run twice; None: by method and path. With ``body``, if it is at hand, what each node's provider
    needs to be changed in it can be told, too.
    """

    method: str
    target: str
    host: str | None = None
    model: str | None = None
    is_stream: bool = False
    is_replayable: bool | None = None
    body: bytes | None = field(default=None, repr=False)

    def problem(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if not self.method.isascii() or not self.method.isalpha():
            return "the method is no word"
        if not self.target.startswith("/") or not self.target.isascii() or not self.target.isprintable():
            return "the path does not begin with /, or holds what no request can"
        if " " in self.target:
            return "the path holds a space: write %20"
        return ""


def explain(
    generation: Generation, question: Question, now: float, readiness: dict[Upstream, Readiness] | None = None
) -> dict[str, Any]:
    """The answer to a question, as values for JSON.

    Args:
        now: monotonic seconds, as the nodes' terms are.
        readiness: of the upstreams; None: nobody knows.
    """
    path = question.target.partition("?")[0]
    told: dict[str, Any] = {
        "request": {
            "method": question.method,
            "path": question.target,
            "host": question.host,
            "model": question.model,
            "stream": question.is_stream,
        },
        "profile": generation.config.profile.value,
        "route": None,
        "plugins": [],
        "upstream": None,
        "attempts": [],
        "left_out": [],
        "deadlines": None,
    }
    host = question.host.encode() if question.host else None
    route = generation.table.match(question.method.encode(), host, path.encode())
    if route is None:
        is_own = path == "/healthz" and question.method in ("GET", "HEAD")
        told["answer"] = "200: the gateway is alive" if is_own else "404: no route takes it"
        return told
    plan: RoutePlan = route.plan
    config = generation.config.routes[generation.table.routes.index(route)]
    told["route"] = _route(config, plan)
    told["plugins"] = _plugins(config, plan)
    built = next((each for each in generation.upstreams.values() if each.upstream is plan.upstream), None)
    if built is None:
        told["answer"] = "503: the route has no upstream"
        return told
    ready = (readiness or {}).get(built.upstream)
    told["upstream"] = {
        "name": built.config.name,
        "max_attempts": plan.max_attempts,
        "retry_timeout_s": built.upstream.retry_timeout_s or None,
        "moves_on_status": plan.fails_over_on_status,
        "repeats_what_may_have_run": _repeats(question, plan, path),
        "backup_ready": ready.ready if ready is not None else None,
        "reasons": list(ready.reasons) if ready is not None else [],
    }
    told["deadlines"] = _deadlines(plan, question)
    told["attempts"], told["left_out"] = _attempts(built, plan, question, now)
    if told["attempts"]:
        told["answer"] = "of the first attempt that succeeds"
    else:
        told["answer"] = "503: no node may be used now"
    return told


def _route(config: RouteConfig, plan: RoutePlan) -> dict[str, Any]:
    mark = config.mark
    return {
        "id": config.id,
        "name": config.name,
        "uris": list(config.uris),
        "hosts": list(config.hosts),
        "methods": list(config.methods),
        "written_at": f"{mark.file}:{mark.line}:{mark.column}" if mark is not None else None,
        "is_llm": plan.is_llm,
    }


def _plugins(config: RouteConfig, plan: RoutePlan) -> list[dict[str, Any]]:
    """The plugins that run, in their order, then those that are part of every request to a node."""
    running = [plugin.name for plugin in plan.plugins]
    folded = [plugin.name for plugin in config.plugins if plugin.name not in running]
    return [
        *({"name": name, "runs": True} for name in running),
        *({"name": name, "runs": False} for name in folded),
    ]


def _repeats(question: Question, plan: RoutePlan, path: str) -> bool:
    """Is a request that a node may have run sent to another one?"""
    if not plan.replays_uncertain:
        return False
    if plan.replayable is not None:
        return bool(plan.replayable)
    if question.is_replayable is not None:
        return question.is_replayable
    return is_replayable(question.method.encode(), path.encode(), None)


def _deadlines(plan: RoutePlan, question: Question) -> dict[str, float]:
    """Seconds."""
    limits = plan.deadlines
    return {
        "connect": limits.connect_s,
        "head": limits.head_stream_s if question.is_stream else limits.head_s,
        "first_content": limits.first_content_stream_s if question.is_stream else limits.first_content_s,
        "progress": limits.progress_s,
        "idle": limits.idle_s,
        "total": limits.total_s,
    }


# --- The plan of attempts -----------------------------------------------------------------------


def _attempts(
    built: BuiltUpstream, plan: RoutePlan, question: Question, now: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(attempts in their order, were each of them to fail; the nodes that are left out)."""
    originals = built.upstream.nodes
    copies = [_copy(node, now) for node in originals]
    upstream = Upstream(copies, built.upstream.health, random=lambda: 0.5, stagger=(0, 1))
    tried = Tried()
    kept_out = {
        position
        for position, (node, copy) in enumerate(zip(originals, copies, strict=True))
        if copy.is_available(now) and not node.is_available(now)
    }
    rests = _rests(built, plan, question, now)
    for position in kept_out:
        tried.add(position)
    for position in rests:
        tried.skip(position)
    first = _first_tier(copies, kept_out | rests.keys(), now)
    attempts: list[dict[str, Any]] = []
    elapsed = 0.0
    used = set()
    for number in range(1, plan.max_attempts + 1):
        attempt = upstream.start_attempt(now, tried)
        if attempt is None:
            break
        position = attempt.position
        tried.add(position)
        used.add(position)
        limit = attempt_deadline(elapsed, plan.total_s, number >= plan.max_attempts) - elapsed
        attempts.append(
            {
                "number": number,
                **_node(originals[position], plan.links[position], question, now),
                "share": first.get(position, 0.0),
                "picked_as": PickKind(attempt.kind).name.lower(),
                "content_within_s": round(min(limit, _patience(plan, question)), 3),
            }
        )
        elapsed += min(limit, _patience(plan, question))
        attempt.ignored(now)
    left_out = [
        {
            **_node(node, plan.links[position], question, now),
            "why": rests.get(position) or _why_not(node, now, len(attempts), plan),
        }
        for position, node in enumerate(originals)
        if position not in used
    ]
    return attempts, left_out


def _rests(built: BuiltUpstream, plan: RoutePlan, question: Question, now: float) -> dict[int, str]:
    """Why nodes are not asked for this model now, by position, as this process knows it."""
    if question.model is None:
        return {}
    endpoint = endpoint_of(question.method.encode(), question.target.partition("?")[0].encode())
    facts = scan(question.body) if question.body else None
    scopes = scopes_of(endpoint, facts.traits if facts is not None else 0)
    found = {}
    for position, model in enumerate(plan.models_for(question.model)):
        rest = built.upstream.models.rest_of(position, model, scopes, now)
        if rest is not None:
            found[position] = (
                f"{model} is {rest.reason} there, tried again in {rest.ends_at(now) - now:.0f} s"
            )
    return found


def _patience(plan: RoutePlan, question: Question) -> float:
    """The longest that one attempt may take to show content, but for its share of the total."""
    limits = plan.deadlines
    if not plan.is_llm:
        return limits.connect_s + (limits.head_stream_s if question.is_stream else limits.head_s)
    content = limits.first_content_stream_s if question.is_stream else limits.first_content_s
    head = limits.head_stream_s if question.is_stream else limits.head_s
    return limits.connect_s + max(head, content)


def _copy(node: Node, now: float) -> Node:
    """A node in the same standing, with a record of its own."""
    copy = Node(node.host, node.port, node.weight, node.priority, name=node.name)
    if node.cooling_until:
        copy.cool(node.cooling_until)
    if node.dead_until:
        copy.kill(node.dead_until)
    if not node.is_usable():
        copy.eject(node.ejected_until, int(node.cause))
        if not node.is_available(now):  # its probes still fail, say
            copy.note_probe(True, now + _COPY_S)
    return copy


def _first_tier(nodes: list[Node], kept_out: set[int], now: float) -> dict[int, float]:
    """The share of new requests that each node of the tier in use gets first, by position."""
    open_ = [
        position
        for position, node in enumerate(nodes)
        if position not in kept_out and node.is_usable() and node.is_available(now)
    ]
    if not open_:
        return {}
    tier = max(nodes[position].priority for position in open_)
    members = [position for position in open_ if nodes[position].priority == tier]
    total = sum(nodes[position].weight for position in members)
    if total == 0:
        return dict.fromkeys(members, round(1 / len(members), 4))
    return {position: round(nodes[position].weight / total, 4) for position in members}


def _node(node: Node, link: NodeLink, question: Question, now: float) -> dict[str, Any]:
    model = question.model
    changes: list[str] | None = None
    misfit: str | None = None
    if link.adapter is not None:
        model = link.adapter.model_for(model)
        if question.body is not None:
            rendering = link.adapter.render(question.body, scan(question.body), question.target.encode())
            changes = list(rendering.changes) if rendering is not None else []
            misfit = rendering.misfit if rendering is not None else None
    return {
        "node": node.name,
        "provider": link.provider,
        "tier": node.priority,
        "weight": node.weight,
        "health": standing_text(node, now),
        "model": model,
        "model_is_mapped": model != question.model,
        "changes": changes,
        "misfit": misfit,
    }


def standing_text(node: Node, now: float) -> str:
    """A node's standing in a few words."""
    if node.dead_until > now:
        return f"key refused or account empty, tried again in {node.dead_until - now:.0f} s"
    if node.cooling_until > now:
        return f"busy for {node.cooling_until - now:.0f} s more"
    if not node.is_usable():
        who = "probes" if node.is_out_by_probes() else "live traffic"
        if node.ejected_until > now:
            return f"{node.status}, found by {who}, for {node.ejected_until - now:.1f} s more"
        return f"{node.status}, found by {who}"
    if node.is_dead() or node.is_cooling():
        return f"{node.status}, one request tries it"
    if node.max_in_flight and node.in_flight >= node.max_in_flight:
        return f"{node.status}, full with {node.in_flight} requests"
    return node.status


def _why_not(node: Node, now: float, attempts: int, plan: RoutePlan) -> str:
    if not node.is_available(now):
        return standing_text(node, now)
    if attempts >= plan.max_attempts:
        return f"a request is attempted {plan.max_attempts} times at most"
    return "while it comes back one request at a time tries it"
