"""The trainings that the studies need: equal ones once, with all the epochs after which results are taken."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mma4ctr.evaluation.studies import BASE_TRAINING, COMPARISON, MODEL, Case, Inputs, Study, cases_of
from mma4ctr.features.variants import STUDY, Variants, split_variant
from mma4ctr.model.trainer import TrainSettings
from mma4ctr.model.training_defaults import default_batch_size
from mma4ctr.runtime.console import note


@dataclass(frozen=True)
class Group:
    """One training of the sweep.

    Attributes:
        task: For example `tiktok_like`.
        variant: The matrix it is trained on.
        inputs: How the features are made.
        settings: Of the training; `epochs` is left at 0.
        checkpoint_epochs: The numbers of epochs after which results are taken.
        compared: Keep the scores of the test rows, for paired tests.
    """

    task: str
    variant: str
    inputs: Inputs
    settings: TrainSettings
    checkpoint_epochs: tuple[int, ...]
    compared: bool = field(default=False, compare=False)

    @property
    def parts(self) -> list[str]:
        """What identifies the training, for display: the parts of its name."""
        own = self.settings
        return [
            self.task,
            self.variant,
            f"{self.inputs.split} split",
            f"evidence {self.inputs.evidence}",
            f"length {self.inputs.length}",
            f"loss {own.loss}",
            f"learning rate {own.learning_rate:g}",
            f"batch size {own.batch_size or 'auto'}",
            own.schedule if own.schedule != "halving" else f"halving {own.halve_every}",
            "interrupts" if own.max_interrupts else "no interrupts",
            f"seed {own.seed}",
        ]

    @property
    def name(self) -> str:
        """A unique name, for display."""
        return ", ".join(self.parts)


def _missing_requirement(case: Case, variant: str, base: Inputs, known: Variants, modalities: set[str]) -> str:
    """What a case needs and the prepared inputs lack; empty if it can be trained."""
    needed = known.all[split_variant(variant)[0]]
    if not set(needed) <= modalities:
        return ", ".join(needed)
    if case.features != "paper" and case.inputs.within(base).evidence != "train":
        return "a user embedding of --evidence train"
    return ""


def plan(
    studies: Iterable[Study],
    task: str,
    base: Inputs,
    modalities: Iterable[str],
    seeds: int,
    known: Variants = STUDY,
) -> list[Group]:
    """The trainings that the studies need for a task: equal ones once, with all their checkpoint epochs.

    Args:
        studies: The studies to run.
        task: For example `tiktok_like`.
        base: How the user's own inputs are made.
        modalities: The available modalities; cases that need another one are skipped with a note.
        seeds: Runs of each case, with seeds 0, 1, ...
        known: The variants of the data set.
    """
    checkpoint_epochs: dict[Group, set[int]] = {}
    compared: set[Group] = set()
    for study in studies:
        for case in cases_of(study, known):
            if case.model != MODEL:
                continue  # baseline/comp.py trains it
            variant = str(case.variant_name(base.variant or known.default))
            if missing := _missing_requirement(case, variant, base, known, set(modalities)):
                note(f"{task}: {study.name} {case.label} is skipped, it needs {missing}")
                continue
            options: dict[str, Any] = BASE_TRAINING | case.training
            options["batch_size"] = options["batch_size"] or default_batch_size(
                options["schedule"], base.train_rows or 0
            )
            for seed in range(seeds):
                settings = TrainSettings(epochs=0, seed=seed, **options)
                group = Group(task, variant, case.inputs.within(base), settings, ())
                checkpoint_epochs.setdefault(group, set()).update(
                    [case.own_epochs] if case.own_epochs else study.epochs
                )
                if study.name == COMPARISON:
                    compared.add(group)
    return [
        replace(group, checkpoint_epochs=tuple(sorted(found)), compared=group in compared)
        for group, found in checkpoint_epochs.items()
    ]
