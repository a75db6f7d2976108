"""What ``GET /metrics`` of a rig says, as numbers."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rig import Rig

Figures = dict[str, dict[tuple[str, ...], float]]


def scrape(rig: Rig, **headers: str) -> httpx.Response:
    answer = httpx.get(rig.admin_url + "/metrics", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def figures(rig: Rig) -> Figures:
    """Sample name -> label values in the order of the label names -> value."""
    found: Figures = {}
    for family in text_string_to_metric_families(scrape(rig).text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), f"{sample.name} {labels} twice"
            found[sample.name][labels] = sample.value
    return found
