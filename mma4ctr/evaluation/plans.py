"""Which trainings the studies need: equal ones once, with all the epochs at which results are taken."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mma4ctr.evaluation.studies import BASE_TRAINING, COMPARISON, MODEL, Inputs, Study, cases_of
from mma4ctr.features.variants import STUDY, Variants, split_variant
from mma4ctr.model.trainer import TrainSettings
from mma4ctr.model.training_defaults import default_batch_size
from mma4ctr.runtime.console import note


@dataclass(frozen=True)
class Group:
    """One training: a task's variant and inputs, its settings, and the epochs after which results are taken."""

    task: str
    variant: str
    inputs: Inputs
    settings: TrainSettings
    checkpoint_epochs: tuple[int, ...]
    compared: bool = field(default=False, compare=False)  # its scores of the test rows are kept for paired tests

    @property
    def name(self) -> str:
        """What tells it from other groups, for people."""
        own = self.settings
        words = [self.task, self.variant, *(str(value) for value in (self.inputs.split, self.inputs.evidence))]
        words += [f"length {self.inputs.length}", f"{own.loss}", f"rate {own.learning_rate:g}"]
        words += [
            f"batch {own.batch_size or 'auto'}",
            own.schedule if own.schedule != "halving" else f"halving {own.halve_every}",
            f"seed {own.seed}",
        ]
        return " ".join(words + (["no interrupts"] if not own.max_interrupts else []))


def plan(
    studies: Iterable[Study],
    task: str,
    base: Inputs,
    modalities: Iterable[str],
    seeds: int,
    known: Variants = STUDY,
) -> list[Group]:
    """The trainings that the studies need for a task: equal ones once, with all their checkpoint_epochs.

    Args:
        modalities: cases that need another one are left out.
        known: the variants of its data set.
    """
    checkpoint_epochs: dict[Group, set[int]] = {}
    compared: set[Group] = set()
    for study in studies:
        for case in cases_of(study, known):
            if case.model != MODEL:
                continue  # baseline/comp.py trains it
            variant = str(case.variant_name(base.variant or known.default))
            needed = known.all[split_variant(variant)[0]]
            if not set(needed) <= set(modalities):
                note(f"{task}: {study.name} {case.label} is skipped, it needs {', '.join(needed)}")
                continue
            if case.features != "paper" and case.inputs.within(base).evidence != "train":
                note(f"{task}: {study.name} {case.label} is skipped, it needs a user embedding of --evidence train")
                continue
            options: dict[str, Any] = BASE_TRAINING | case.training
            options["batch_size"] = options["batch_size"] or default_batch_size(
                options["schedule"], base.train_rows or 0
            )
            for seed in range(seeds):
                settings = TrainSettings(epochs=0, seed=seed, **options)
                group = Group(task, variant, case.inputs.within(base), settings, ())
                checkpoint_epochs.setdefault(group, set()).update(study.epochs)
                if study.name == COMPARISON:
                    compared.add(group)
    return [
        replace(group, checkpoint_epochs=tuple(sorted(found)), compared=group in compared)
        for group, found in checkpoint_epochs.items()
    ]
