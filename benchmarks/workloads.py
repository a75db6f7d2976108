"""What is measured, each a function of a ``Bench``: the requests, the streams, and what stands still."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic, sleep

from .bench import Bench, Failed, Running
from .counting import instructions, system_calls, works
from .figures import Metric, Outcome
from .loads import Load, LoadFailed, wrk
from .processes import LOAD_CORE, Process
from .requests import chat
from .selection import scanner, selection
from .upstreams import Upstream

CPU = Metric("cpu_us", "CPU", "µs/request", 1)
CPU_CHUNK = Metric("cpu_us", "CPU", "µs/chunk", 1)
P50 = Metric("p50_us", "p50", "µs", 0)
P99 = Metric("p99_us", "p99", "µs", 0)
NOT_FOR_HEAVY_WORK = ("litellm",)  # it would take as long as all the others together


def requests(
    bench: Bench,
    outcome: Outcome,
    script: str,
    upstream: Upstream,
    connections: int,
    *,
    without: tuple[str, ...] = (),
    streams: bool = False,
) -> Outcome:
    """CPU per request under wrk, and latency beside that of the upstream asked directly."""

    def measure(subject: Running) -> Mapping[str, float]:
        few = min(connections, subject.peer.max_connections)
        # What is in flight at the end is not counted; with few answers that needs a longer look.
        seconds = bench.plan.window_s * (1 if few == connections else 3)
        before = subject.process.cpu_ns()
        found = wrk(script, subject.port, connections=few, seconds=seconds)
        spent = subject.process.cpu_ns() - before
        refuse_errors(found)
        return {
            "cpu_us": spent / found["requests"] / 1000,
            "p50_us": found["p50_us"],
            "p99_us": found["p99_us"],
            "per_second": found["requests"] / found["seconds"],
        }

    def direct() -> Mapping[str, float]:
        found = wrk(
            script,
            upstream.port,
            connections=connections,
            seconds=bench.plan.window_s,
            is_tls=upstream.is_tls,
        )
        return {
            "p50_us": found["p50_us"],
            "p99_us": found["p99_us"],
            "per_second": found["requests"] / found["seconds"],
        }

    peers = [peer for peer in bench.peers if peer.name not in without]
    with bench.running(outcome, upstream, peers=peers, streams=streams) as subjects:
        warm(bench, outcome, subjects, connections)
        bench.take_turns(outcome, subjects, measure, direct)
    return outcome


def warm(bench: Bench, outcome: Outcome, subjects: list[Running], connections: int) -> None:
    """Some requests that are not counted; who does not answer them is left out."""
    for subject in subjects[:]:
        few = min(connections, subject.peer.max_connections)
        count = 4 * few
        load = Load.start(bench.processes, subject.port, chat(), connections=few, requests=count)
        try:
            found = load.finish(60.0)
            if found["answers"] != count or found["other"]:
                raise LoadFailed(
                    f"{found['answers']} of {count} requests answered, {found['other']} by an error"
                )
        except Failed as error:
            bench.skip(outcome, subject.peer.name, error)
            subjects.remove(subject)


def refuse_errors(found: Mapping[str, float]) -> None:
    """A gateway that answers with errors is fast. Raises LoadFailed."""
    wrong = found["other"] + found["broken"] + found["timeouts"]
    if wrong > found["requests"] * 0.001:
        raise LoadFailed(f"{wrong:.0f} of {found['requests']:.0f} requests failed")


def plain(bench: Bench) -> Outcome:
    outcome = Outcome(
        "plain",
        "Plain POST: 300 bytes, answer of 450 bytes, 64 connections",
        (CPU, Metric("per_second", "answers", "1/s", 0), P50, P99),
        "Answers/s and latency are those of this machine with load and upstream on the other core: "
        "CPU per request is the figure that carries over. LiteLLM has 8 connections.",
    )
    return requests(bench, outcome, "plain", bench.upstreams.answering(), 64)


def tls(bench: Bench) -> Outcome:
    outcome = Outcome(
        "tls",
        "The same with a TLS 1.3 upstream (ECDSA), plain clients",
        (CPU, Metric("per_second", "answers", "1/s", 0), P50, P99),
    )
    return requests(bench, outcome, "plain", bench.upstreams.answering(is_tls=True), 64)


def latency(bench: Bench, *, is_tls: bool) -> Outcome:
    """What a gateway adds to one request at a time."""
    outcome = Outcome(
        "latency-tls" if is_tls else "latency",
        f"Added latency: one connection, {'TLS' if is_tls else 'plain'} upstream, over a direct call",
        (Metric("added_p50_us", "p50", "µs", 0), Metric("added_p99_us", "p99", "µs", 0)),
        "The direct call is made in the same round, over the same kind of connection as the gateway's own.",
        compares=False,
    )
    upstream = bench.upstreams.answering(is_tls=is_tls)
    base: dict[str, float] = {}

    def direct() -> Mapping[str, float]:
        base.update(
            wrk("plain", upstream.port, connections=1, seconds=bench.plan.window_s / 2, is_tls=is_tls)
        )
        return {"p50_us": base["p50_us"], "p99_us": base["p99_us"]}

    def measure(subject: Running) -> Mapping[str, float]:
        found = wrk("plain", subject.port, connections=1, seconds=bench.plan.window_s / 2)
        refuse_errors(found)
        return {
            "added_p50_us": found["p50_us"] - base["p50_us"],
            "added_p99_us": found["p99_us"] - base["p99_us"],
        }

    with bench.running(outcome, upstream) as subjects:
        warm(bench, outcome, subjects, 1)
        bench.take_turns(outcome, subjects, measure, direct)
    outcome.values.pop("direct", None)
    return outcome


def large_answer(bench: Bench) -> Outcome:
    outcome = Outcome("large-answer", "Answers of 64 KB, 16 connections", (CPU,))
    upstream = bench.upstreams.answering()
    return requests(bench, outcome, "large_answer", upstream, 16, without=NOT_FOR_HEAVY_WORK)


def large_request(bench: Bench) -> Outcome:
    outcome = Outcome(
        "large-request",
        "Requests of 256 KB, 16 connections",
        (CPU,),
        "fastgw finds the model's name in the body, after the messages, and replaces it; nginx, HAProxy, "
        "Envoy and the floor pass bytes on. nginx has room for the body in memory.",
    )
    upstream = bench.upstreams.streaming(models=(("gpt-5.2", "gpt-5.2-mini"),))
    return requests(bench, outcome, "large_request", upstream, 16, without=NOT_FOR_HEAVY_WORK)


def mixed(bench: Bench) -> Outcome:
    outcome = Outcome(
        "mixed",
        "Mixed: of 20 requests 14 short, 5 streams of 20 chunks, 1 of 32 KB; 64 connections",
        (CPU,),
    )
    upstream = bench.upstreams.streaming(interval_us=2_000)
    return requests(bench, outcome, "mixed", upstream, 64, without=NOT_FOR_HEAVY_WORK, streams=True)


# --- Streams --------------------------------------------------------------------------------------


def sse(bench: Bench, *, is_tls: bool) -> Outcome:
    """CPU per chunk of many quiet streams: what is measured is mostly a wake-up."""
    name = "sse-tls" if is_tls else "sse"
    outcome = Outcome(
        name,
        f"Streams: 200, 50 chunks/s each, {'TLS 1.3' if is_tls else 'plain'} upstream",
        (CPU_CHUNK, Metric("over_floor_us", "over the floor", "µs", 1)) if not is_tls else (CPU_CHUNK,),
        "LiteLLM has 10 streams: it cannot carry 200.",
    )

    def measure(subject: Running) -> Mapping[str, float]:
        load = Load.start(
            bench.processes,
            subject.port,
            chat(stream=True),
            connections=subject.peer.streams,
            spread_us=20_000 // subject.peer.streams,
        )
        try:
            sleep(0.6)
            seen, before, begin = load.count(), subject.process.cpu_ns(), monotonic()
            sleep(bench.plan.stream_window_s)
            spent, end = subject.process.cpu_ns() - before, monotonic()
            chunks = load.count()["events"] - seen["events"]
            last = load.stop()
        finally:
            bench.processes.end(load.process)
        if last["broken"] or last["other"]:
            raise LoadFailed(f"{last['broken']} streams broke, {last['other']} were refused")
        expected = subject.peer.streams * 50 * (end - begin)
        if chunks < expected * 0.8:
            raise LoadFailed(f"{chunks} of {expected:.0f} chunks came through")
        return {"cpu_us": spent / chunks / 1000}

    with bench.running(outcome, bench.upstreams.streaming(is_tls=is_tls), streams=True) as subjects:
        warm(bench, outcome, subjects, 16)
        bench.take_turns(outcome, subjects, measure)
    if not is_tls:
        floor = outcome.rounds("relay")
        for peer in outcome.values:
            for number, value in outcome.rounds(peer).items():
                if number in floor:
                    outcome.add(peer, number, {"over_floor_us": value - floor[number]})
    return outcome


def idle_streams(bench: Bench, *, is_tls: bool) -> Outcome:
    """Memory of streams that wait for their next chunk."""
    count = bench.plan.idle_streams
    outcome = Outcome(
        "streams-tls" if is_tls else "streams",
        f"Memory: {count} streams that wait, {'TLS 1.3' if is_tls else 'plain'} upstream",
        (Metric("per_stream_kb", "per stream", "KB", 1),),
        "Resident memory with the streams less that before them, divided by their number. "
        "The kernel's socket buffers are not in it.",
    )
    upstream = bench.upstreams.streaming(is_tls=is_tls, interval_us=0)
    peers = [peer for peer in bench.peers if peer.name not in NOT_FOR_HEAVY_WORK]
    with bench.running(outcome, upstream, streams=True, peers=peers) as subjects:
        for subject in subjects:
            try:
                outcome.add(subject.peer.name, 0, {"per_stream_kb": stream_kb(bench, subject, count)})
            except Failed as error:
                bench.skip(outcome, subject.peer.name, error)
    return outcome


def stream_kb(bench: Bench, subject: Running, count: int) -> float:
    load = Load.start(
        bench.processes, subject.port, chat(stream=True, chunks=1), connections=8, requests=8
    )  # what the first requests allocate once; these streams never end
    sleep(0.3)
    before = subject.process.memory_bytes()
    streams = Load.start(bench.processes, subject.port, chat(stream=True), connections=count, spread_us=500)
    try:
        deadline = monotonic() + 10 + count * 0.005
        while (seen := streams.count())["events"] < count:
            if monotonic() > deadline:
                raise LoadFailed(f"{seen['events']} of {count} streams began")
            sleep(0.05)
        sleep(0.3)
        return (subject.process.memory_bytes() - before) / count / 1000
    finally:
        bench.processes.end(streams.process)
        bench.processes.end(load.process)


# --- Failure --------------------------------------------------------------------------------------


def failover(bench: Bench) -> Outcome:
    """A node is killed under load."""
    outcome = Outcome(
        "failover",
        "A node is killed (SIGKILL) under load of 32 connections, another one is there",
        (
            Metric("slowest_ms", "slowest request", "ms", 1),
            Metric("gap_ms", "longest time without an answer", "ms", 1),
            Metric("lost", "requests lost", "", 0),
        ),
        "Lost: answered with an error, or with a connection that closed. A POST that may have run is sent "
        "again by fastgw's LLM profile, and by nginx, HAProxy and Envoy as configured here.",
        compares=False,
    )
    able = [peer for peer in bench.peers if peer.name in ("fastgw", "nginx", "haproxy", "envoy")]
    for number in range(bench.plan.few):
        for peer in able:
            victim, port = start_emitter(bench)
            spare, spare_port = start_emitter(bench)
            try:
                with bench.running(outcome, Upstream(port, spare_port), peers=[peer]) as subjects:
                    for subject in subjects:
                        outcome.add(peer.name, number, kill_under_load(bench, subject, victim))
            except Failed as error:
                bench.skip(outcome, peer.name, error)
            finally:
                bench.processes.end(victim)
                bench.processes.end(spare)
    return outcome


def start_emitter(bench: Bench) -> tuple[Process, int]:
    """One of its own, that may be killed."""
    from . import programs

    process = bench.processes.start("node", [programs.emitter(), "0", "20000"], core=LOAD_CORE, is_piped=True)
    return process, process.read_port()


def kill_under_load(bench: Bench, subject: Running, victim: Process) -> Mapping[str, float]:
    load = Load.start(bench.processes, subject.port, chat(), connections=32)
    try:
        sleep(0.8)
        before = load.count()
        victim.popen.kill()
        sleep(2.0)
        after = load.stop()
    finally:
        bench.processes.end(load.process)
    if not before["answers"] or after["answers"] <= before["answers"]:
        raise LoadFailed("it did not answer, or not again after the kill")
    return {
        "slowest_ms": after["slowest_ms"],
        "gap_ms": after["longest_gap_ms"],
        "lost": after["other"] + after["broken"],
    }


# --- Standing still -------------------------------------------------------------------------------


def start(bench: Bench) -> Outcome:
    """From the command to a socket that accepts."""
    outcome = Outcome("start", "Start to listening", (Metric("start_s", "time", "s", 2),), compares=False)
    upstream = bench.upstreams.answering()
    for number in range(bench.plan.starts):
        for peer in bench.peers:
            if peer.name in outcome.skipped or (number and peer.name in NOT_FOR_HEAVY_WORK):
                continue
            begin = monotonic()
            try:
                process, _ = peer.start(upstream)
            except Failed as error:
                bench.skip(outcome, peer.name, error)
                continue
            outcome.add(peer.name, number, {"start_s": monotonic() - begin})
            bench.processes.end(process)
    return outcome


def idle(bench: Bench) -> Outcome:
    """Memory of a worker that has nothing to do, and the CPU it takes all the same."""
    outcome = Outcome(
        "idle",
        "An idle worker (probes once a second where the peer has them)",
        (Metric("memory_mib", "memory", "MiB", 1), Metric("cpu_percent", "CPU", "%", 2)),
        "Resident memory of all its processes.",
        compares=False,
    )
    with bench.running(outcome, bench.upstreams.answering()) as subjects:
        for subject in subjects:
            subject.process.settle()
        before = [subject.process.cpu_ns() for subject in subjects]
        begin = monotonic()
        sleep(3.0)
        took_ns = (monotonic() - begin) * 1e9
        for subject, cpu in zip(subjects, before, strict=True):
            found = {
                "memory_mib": subject.process.memory_bytes() / 2**20,
                "cpu_percent": (subject.process.cpu_ns() - cpu) / took_ns * 100,
            }
            outcome.add(subject.peer.name, 0, found)
    return outcome


# --- Counting -------------------------------------------------------------------------------------


def counts(bench: Bench, name: str) -> Outcome:
    """Figures without a clock, of exact numbers of requests or chunks."""
    plan = bench.plan
    kinds = works(bench.upstreams, plan.counted_requests, plan.counted_chunks, with_tls_streams=True)
    work = next(work for work in kinds if work.name == name)
    what = {
        "plain": "plain POST",
        "tls": "TLS upstream",
        "sse": "streams",
        "sse-tls": "streams, TLS upstream",
    }
    outcome = Outcome(
        f"counts-{name}",
        f"Counted, per {work.unit}: {what[name]}",
        (
            Metric("system_calls", "system calls", "", 2),
            Metric("instructions", "user instructions", "", 0),
        ),
        "No clock is in these: the same again on any machine with the same programs.",
    )
    for peer in bench.peers:
        if peer.name in NOT_FOR_HEAVY_WORK:
            continue
        tools = {"system_calls": system_calls}
        if peer.name in plan.counted_peers:
            tools["instructions"] = instructions
        for key, count in tools.items():
            try:
                outcome.add(peer.name, 0, {key: count(bench.processes, peer, work).per_unit})
            except Failed as error:
                bench.skip(outcome, peer.name, error)
                break
    return outcome


WORKLOADS: dict[str, Callable[[Bench], Outcome]] = {
    "plain": plain,
    "tls": tls,
    "latency": lambda bench: latency(bench, is_tls=False),
    "latency-tls": lambda bench: latency(bench, is_tls=True),
    "sse": lambda bench: sse(bench, is_tls=False),
    "sse-tls": lambda bench: sse(bench, is_tls=True),
    "mixed": mixed,
    "large-answer": large_answer,
    "large-request": large_request,
    "streams": lambda bench: idle_streams(bench, is_tls=False),
    "streams-tls": lambda bench: idle_streams(bench, is_tls=True),
    "failover": failover,
    "start": start,
    "idle": idle,
    "selection": selection,
    "scanner": scanner,
    "counts-plain": lambda bench: counts(bench, "plain"),
    "counts-tls": lambda bench: counts(bench, "tls"),
    "counts-sse": lambda bench: counts(bench, "sse"),
    "counts-sse-tls": lambda bench: counts(bench, "sse-tls"),
}
