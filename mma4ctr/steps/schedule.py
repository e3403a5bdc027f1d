"""Many trainings at once, of the sweep or of the comparison: the longest first, with their progress and results."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mma4ctr.evaluation.run_records import Result
from mma4ctr.evaluation.studies import MODEL
from mma4ctr.runtime.console import RunsDisplay, warn
from mma4ctr.runtime.errors import UserError

# Seconds between two looks at the progress of running trainings.
LOOK_EVERY = 0.3


class Named(Protocol):
    """A training."""

    @property
    def name(self) -> str:
        """Its name, for messages."""


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class Schedule(Generic[T]):
    """How trainings are run.

    Attributes:
        display: Shows the progress.
        cost: Expected seconds of a training.
        submit: Starts a training, or queues it; its future raises `UserError` if the training fails.
        look: Called several times a second while trainings run.
    """

    display: RunsDisplay
    cost: Callable[[T], float]
    submit: Callable[[T], "Future[list[Result]]"]
    look: Callable[[], None] = lambda: None

    def run(self, trainings: Iterable[T]) -> int:
        """Run trainings, the longest first; returns the number of failed ones."""
        longest_first = sorted(trainings, key=lambda training: -self.cost(training))
        waiting = {self.submit(training): training for training in longest_first}
        failed = 0
        while waiting:
            done, _ = wait(waiting, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            self.look()
            for future in done:
                failed += not self._succeeded(future, waiting.pop(future))
        return failed

    def _succeeded(self, future: "Future[list[Result]]", training: T) -> bool:
        """Show a finished training."""
        name = training.name
        try:
            results = future.result()
        except UserError as error:
            self.display.finish(name, self.cost(training), f"{name}: failed")
            # An error of a Ray task has the traceback of the task as its text, and the task's own error as its cause.
            warn(f"{name} failed:", *str(getattr(error, "cause", error)).splitlines())
            return False
        shown = ", ".join(f"{'-' if r.auc is None else format(r.auc, '.4f')} at {r.epochs}" for r in results)
        self.display.finish(name, self.cost(training), f"{name}: test AUC {shown}")
        if without := [str(r.epochs) for r in results if r.model == MODEL and not r.best_epoch]:
            warn(f"{name}: no weights after {' and '.join(without)} epochs, because no epoch was kept")
        return not without
