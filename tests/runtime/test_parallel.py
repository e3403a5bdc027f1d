"""Threads and processes: results in order, errors at their item, a bounded number of items ahead."""

import os
import threading

import pytest

from mma4ctr.runtime import console
from mma4ctr.runtime.parallel import Processes, Threads, cores


def square(number):
    if number < 0:
        raise ValueError("negative")
    return number * number


def die(number):
    os._exit(1)


@pytest.mark.parametrize("kind", [Threads, Processes])
def test_results_come_in_order_and_errors_with_their_item(kind):
    workers = kind()
    found = []
    for item, future in workers.in_order(square, [3, -1, 2, *range(50)]):
        found.append((item, future.exception() is None and future.result()))
    assert found[:3] == [(3, 9), (-1, False), (2, 4)]
    assert found[3:] == [(number, number * number) for number in range(50)]
    if kind is Processes:
        workers.__exit__()


def test_work_is_not_done_far_ahead_of_its_reader():
    started, lock = [], threading.Lock()

    def work(number):
        with lock:
            started.append(number)

    for seen, _ in enumerate(Threads().in_order(work, range(100))):
        assert len(started) <= seen + cores() + 2


def test_a_killed_worker_is_one_line(capsys):
    def main():
        with Processes() as workers:
            for _, future in workers.in_order(die, range(3)):
                future.result()

    with pytest.raises(SystemExit) as end:
        console.run(main)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "a worker process was killed" in error and "Traceback" not in error
