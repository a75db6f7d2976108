"""What the event scanner costs per event of a typical stream, in one thread.

Run: python benchmarks/micro_sse.py [ROUNDS]
"""

import platform
import statistics
import sys
import time

import orjson

from fastgw.llm import sse

PREFIX = '"id":"chatcmpl-BZ9xQ2","object":"chat.completion.chunk","created":1795000000,"model":"gpt-5.2"'


def chunk(delta: str, more: str = "") -> bytes:
    choice = f'{{"index":0,"delta":{delta},"finish_reason":null}}'
    return f'data: {{{PREFIX},"choices":[{choice}]{more}}}\n\n'.encode()


def responses_delta(text: str) -> bytes:
    return (
        "event: response.output_text.delta\n"
        'data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_68a1",'
        f'"output_index":0,"content_index":0,"delta":"{text}","logprobs":[]}}\n\n'
    ).encode()


CASES = {
    "content": chunk('{"content":" token"}'),
    "content, escaped quotes": chunk(r'{"content":"\"error\":"}'),
    "content, obfuscated": chunk('{"content":" token"}', ',"usage":null,"obfuscation":"x7Jq2LmZ0"'),
    "content, Chinese": chunk('{"content":"\u4f60\u597d\u4e16\u754c\u548c\u5e73"}'),
    "reasoning (DeepSeek)": chunk('{"content":null,"reasoning_content":" hmm"}'),
    "tool call": chunk('{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a"}}]}'),
    "Responses API delta": responses_delta(" token"),
    "keep-alive comment": b": keep-alive\n\n",
    "parsed in full": chunk('{"content":["x"]}'),
}


def best_ns(data: bytes, events: int, rounds: int) -> float:
    """Return the median over 7 runs of nanoseconds per event."""
    runs = []
    for _ in range(7):
        scanner = sse.EventScanner()
        scanner.feed(data, 0, len(data))  # the model's name is read once
        feed, end = scanner.feed, len(data)
        begin = time.perf_counter_ns()
        for _ in range(rounds):
            feed(data, 0, end)
        runs.append((time.perf_counter_ns() - begin) / rounds / events)
    return statistics.median(runs)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    form = "interpreted" if sse.__file__.endswith(".py") else "compiled"
    print(f"{platform.machine()}, Python {platform.python_version()}, scanner {form}; ns per event")
    print(f"{'':28}{'bytes':>6}{'alone':>8}{'10 a read':>11}{'cut in two':>12}{'orjson':>8}")
    for name, event in CASES.items():
        alone = best_ns(event, 1, rounds)
        many = best_ns(event * 10, 10, rounds // 5)
        half = len(event) // 2
        scanner = sse.EventScanner()
        begin = time.perf_counter_ns()
        for _ in range(rounds):
            scanner.feed(event, 0, half)
            scanner.feed(event, half, len(event))
        cut = (time.perf_counter_ns() - begin) / rounds
        parse = ""
        data = event[event.find(b"data: ") + 6 :] if b"data: " in event else b""
        if data:
            begin = time.perf_counter_ns()
            for _ in range(rounds):
                orjson.loads(data)
            parse = f"{(time.perf_counter_ns() - begin) / rounds:.0f}"
        print(f"{name:28}{len(event):>6}{alone:>8.0f}{many:>11.0f}{cut:>12.0f}{parse:>8}")


if __name__ == "__main__":
    main()
