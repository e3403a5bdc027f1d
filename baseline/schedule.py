"""Which trainings the comparison does, in which order, and how long they will take."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from processes import Workers, train
from trainings import ComparedTraining, Prepared

from mma4ctr.data.interactions import TRAIN
from mma4ctr.evaluation.baselines import BASELINES, Baseline
from mma4ctr.evaluation.run_records import Result
from mma4ctr.runtime.console import RunsDisplay
from mma4ctr.runtime.parallel import cores
from mma4ctr.steps.schedule import Schedule

START_SECONDS = 8


def plan(
    prepared: Sequence[Prepared],
    models: Sequence[Baseline],
    checkpoint_epochs: Sequence[int],
    seeds: int,
    done: set[str],
) -> list[ComparedTraining]:
    """The trainings to do.

    Args:
        prepared: The tasks.
        models: The models.
        checkpoint_epochs: Numbers of epochs after which results are taken.
        seeds: Number of seeds of each model that is trained in epochs.
        done: Ids of the finished runs.

    Returns:
        The trainings with the checkpoints that no finished run has.
    """
    found = []
    for one in prepared:
        for model in models:
            for seed in range(seeds if model.by_epoch else 1):
                epochs = tuple(sorted(set(checkpoint_epochs))) if model.by_epoch else (1,)
                epochs = epochs[-1:] if model.stops_early else epochs
                whole = ComparedTraining(one, model, seed, epochs)
                rest = tuple(checkpoint for checkpoint in epochs if whole.run_id(checkpoint) not in done)
                if rest:
                    found.append(replace(whole, checkpoint_epochs=rest))
    return found


def expected_seconds(results: Sequence[Result]) -> Callable[[ComparedTraining], float]:
    """How long a training will take.

    Args:
        results: Finished runs: a row takes as long as in the model's last one, or else as its table entry says.

    Returns:
        A function that estimates the seconds of a training.
    """
    cost = {}
    for result in results:
        if result.model in BASELINES and result.rows_per_second:
            cost[result.model] = 1 / result.rows_per_second, result.test_seconds / result.rows["test"]

    def seconds(training: ComparedTraining) -> float:
        data, model = training.prepared.data, training.model
        train_rows = data.split == TRAIN
        positives = int(data.label(training.prepared.target)[train_rows].sum())
        learned = model.rows_learned({"train": int(train_rows.sum())}, {"train": positives})
        a_row, a_score = cost.get(model.name, (model.train_cost / 1000, model.score_cost / 1000))
        scored = len(data) - int(train_rows.sum())
        epochs = training.checkpoint_epochs
        return START_SECONDS + max(epochs) * learned * a_row + len(epochs) * scored * a_score

    return seconds


def train_all(work: Sequence[ComparedTraining], cost: Callable[[ComparedTraining], float], jobs: int) -> int:
    """Do the trainings, the longest first.

    Args:
        work: The trainings.
        cost: Estimates the seconds of a training.
        jobs: Trainings at a time.

    Returns:
        How many have failed.
    """
    with RunsDisplay(sum(map(cost, work))) as display, ThreadPoolExecutor(jobs) as pool:
        workers = Workers(max(1, cores() // jobs), display.update)
        try:
            return Schedule(display, cost, lambda training: pool.submit(train, training, workers)).run(work)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            workers.kill()  # after Ctrl-C
