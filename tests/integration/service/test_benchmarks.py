"""The benchmarks of the service, in small: that they measure what they say, not how fast it is."""

import argparse

from benchmarks import database, scheduler
from service.context import Context


def arguments(**changes: object) -> argparse.Namespace:
    values = {
        "workers": 4,
        "chunks": 30,
        "audits": 1,
        "chunk_seconds": 20.0,
        "gates": 2,
        "stragglers": 0.0,
        "failures": 0.0,
        "seed": 1,
    }
    return argparse.Namespace(**(values | changes))


def test_simulated_workers_do_every_chunk_and_small_audits_do_not_wait_for_the_large_one(context: Context) -> None:
    found = scheduler.simulate(context, arguments())
    assert found["chunks_left"] == 0
    assert 30 * 20 / 4 * 0.9 < found["makespan"] < 32 * 20 / 4 * 1.3
    assert found["gate_waits"]["max"] < 21 * 1.05


def test_simulated_workers_that_die_cost_time_and_no_chunk(context: Context) -> None:
    found = scheduler.simulate(context, arguments(failures=0.2, seed=3))
    assert found["workers_lost"] > 2
    assert found["chunks_left"] == 0
    assert found["makespan_over_computed"] > 1.05


def test_database_benchmark_writes_and_reads_what_it_times(context: Context) -> None:
    commit = database.commit_against_copy(context, turns=1, count=50)
    assert commit["ratio"] > 0
    found = database.by_size(context, 120, 50)
    assert found["num_samples"] == 120
    assert all(seconds > 0 for name, seconds in found.items() if name != "num_samples")
