"""The page about scaling and the load test, in small: that they measure and compute what they say."""

import argparse
import itertools
import re
from collections.abc import Iterator

import pytest

from benchmarks import load, scaling
from service.context import Context

ASSUMED = scaling.Assumed(rate=1000.0, image_bytes=100_000.0, price=2.0)
FIGURES = {
    "workers": {"share_of_a_20_second_chunk": 0.01},
    "database": {
        "commit": {"commit_rows_per_second": 100_000.0},
        "sizes": [{"num_samples": 1_000_000, "finalise": 5.0, "first_evidence": 5.0}],
        "bytes_of_a_sample": {"scores": 300.0, "role_entries": 200.0},
    },
    "decode": 0.01,
}
SIMULATED = {
    "makespan_over_computed": 1.1,
    "workers_lost": 2,
    "gate_waits": {"mean": 0.5, "max": 1.0},
    "milliseconds": {"claim": {"mean": 10.0}, "record": {"mean": 10.0}},
}


def test_plan_follows_from_unit_costs() -> None:
    plan = scaling.Plan(audits=1)  # 26 million views: 406 s on 64 GPUs, 451 s with what was measured around them
    found = scaling.what_it_takes(plan, FIGURES, SIMULATED, ASSUMED)
    assert found["samples in a chunk; chunks"] == "1,000; 1,300"
    assert found["computing on 64 GPUs"] == "6.8 min"
    assert found["time in all"] == "**7.5 min**"
    assert found["read from the store"].startswith("0.3 GB/s")
    assert found["database grows by"] == "0.7 GB"
    assert found["summary and evidence"].startswith("13 s")
    assert found["images in the store"] == "130 GB in at least 2 archives"
    assert found["cost of the GPUs"] == "8.0 hours, 16 USD"


def test_rates_count_right_answers_and_errors_apart() -> None:
    answers: Iterator[bool | None] = itertools.cycle([True, False, True, None])
    connected: list[int] = []

    def connect() -> tuple[load.Send, load.HangUp]:
        connected.append(1)

        def send() -> bool:
            answer = next(answers)
            if answer is None:
                raise ConnectionResetError
            return answer

        return send, lambda: None

    found = load.press(connect, 1, 0.05)
    right = found["requests_per_second"] * found["seconds"]
    assert found["errors"] == pytest.approx(right, abs=2.5)
    assert len(connected) == pytest.approx(1 + found["errors"] / 2, abs=1.5)


def test_load_is_put_on_the_running_service(context: Context, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(seconds=0.3, connections=2, samples=200, views=64)
    kinds = load.measure(context, arguments)["kinds"]
    assert len(kinds) == 8
    for figures in kinds.values():
        for one in figures.values():
            assert one["errors"] == 0
            assert one["requests_per_second"] > 0
    assert len(re.findall(r"\b0 errors", capfd.readouterr().out)) == 16
