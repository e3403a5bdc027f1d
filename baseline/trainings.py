"""What the comparison trains: tasks that are ready to be learned, and one model with one seed on such a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr_settings import described, settings_of

from mma4ctr.data.interactions import TEST, VALID, Interactions, has_test_labels, load_interactions
from mma4ctr.datasets import BUILT_IN, split_task
from mma4ctr.datasets.base import GIVEN_VALID_TEST, SPLIT_NAMES
from mma4ctr.evaluation.baselines import FUXICTR, OWN, RECBOLE, Baseline
from mma4ctr.evaluation.run_records import run_id_of
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.features.variants import matrix_command, with_features
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, read_artifact
from mma4ctr.storage.paths import Paths

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Prepared:
    """One task, ready to be learned.

    Attributes:
        paths: Where its artifacts lie.
        task: For example `tiktok_like`.
        data: Output of step 1.
        variant: The variant that the user's modalities allow; None if they allow none.
        matrices: The feature matrices by features, `paper` or `plus`.
    """

    paths: Paths
    task: str
    data: Interactions
    variant: str | None
    matrices: Mapping[str, Artifact]

    def variant_of(self, model: Baseline) -> str:
        """Name of the matrix that a model sees, `ids` if it sees none."""
        return with_features(str(self.variant), model.features) if model.features else "ids"

    def matrices_of(self, model: Baseline) -> list[Artifact]:
        """The matrices whose columns a model sees."""
        return [self.matrices[features] for features in model.matrices if features in self.matrices]

    @property
    def valid_is_test(self) -> bool:
        """Whether the test rows are the validation rows too, as BARS has it."""
        return bool(self.data.artifact.settings["split"] == GIVEN_VALID_TEST)

    def rows_of(self, part: int) -> np.ndarray:
        """int64: positions of the rows of a part of the split among the kept interactions."""
        return np.flatnonzero(self.data.split == (TEST if part == VALID and self.valid_is_test else part))

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return split_task(self.task)[0]

    @property
    def target(self) -> str:
        """Name of the target."""
        return split_task(self.task)[1]


@dataclass(frozen=True)
class ComparedTraining:
    """One model with one seed.

    Attributes:
        prepared: The task.
        model: The model.
        seed: Of the model.
        checkpoint_epochs: Numbers of epochs after which results are taken.
    """

    prepared: Prepared
    model: Baseline
    seed: int
    checkpoint_epochs: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.prepared.task} {self.model.name} seed {self.seed}"

    @property
    def yaml(self) -> list[Path]:
        """RecBole's settings: of the data set, and of the model if it has its own."""
        if self.model.framework != RECBOLE:
            return []
        of_data = self.prepared.dataset if self.prepared.dataset in BUILT_IN else "own"
        own = HERE / f"{self.model.name.lower()}.yaml"
        return [HERE / f"{of_data}.yaml", *([own] if own.is_file() else [])]

    def settings(self, checkpoint: int) -> dict[str, Any]:
        """Everything that decides a result besides `inputs`."""
        others = [matrix.fingerprint for matrix in self.prepared.matrices_of(self.model)[:-1]]
        return {
            "model": self.model.name,
            "task": self.prepared.task,
            "epochs": checkpoint,
            "seed": self.seed,
            "yaml": [path.read_text() for path in self.yaml],
            **self.model.inputs_setting,
            **({"other_matrices": others} if others else {}),
            **({"fuxictr": self.of_fuxictr} if self.model.framework == FUXICTR else {}),
        }

    @property
    def of_fuxictr(self) -> dict[str, Any]:
        """The settings of a model of FuxiCTR."""
        return settings_of(self.prepared.paths, self.prepared.dataset, self.model)

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprint of what it learns from: its last matrix, or the interactions if it sees no matrix."""
        matrices = self.prepared.matrices_of(self.model)
        name, artifact = ("matrix", matrices[-1]) if matrices else ("interactions", self.prepared.data.artifact)
        return {name: artifact.fingerprint}

    def run_id(self, checkpoint: int) -> str:
        """The run's name, made from its settings and the fingerprint of its inputs."""
        return run_id_of(self.settings(checkpoint), *self.inputs.values())


def prepare(paths: Paths, task: str, models: Sequence[Baseline]) -> Prepared:
    """Load a task.

    Args:
        paths: Where its artifacts lie.
        task: For example `tiktok_like`.
        models: The models that will learn it.

    Returns:
        The task.

    Raises:
        UserError: If a step is missing that a model needs, all rows of a part have the same label, a model does not
            take the data set, or the split leaves no validation rows or no labels of test rows.
    """
    data = load_interactions(paths, split_task(task)[0])
    if any(model.framework == FUXICTR for model in models):
        described(paths, split_task(task)[0])
    others = any(model.framework != FUXICTR for model in models)
    if data.artifact.settings["split"] == GIVEN_VALID_TEST and others:
        raise UserError(f"{task}: the comparison needs validation rows; run step 1 again without the test rows as such")
    if not has_test_labels(data.artifact):
        raise UserError(f"{task}: the test rows have no labels, so models cannot be compared on them")
    variant = prepared_inputs(paths, task).variant
    needed = {features for model in models for features in model.matrices}
    if any(model.framework == OWN for model in models):
        needed.add("paper")  # the bias model sees no features, but takes its rows from the paper's matrix
    if needed and not variant:
        name = next(model.name for model in models if model.matrices or model.framework == OWN)
        raise UserError(f"{task}: no features of several modalities, which {name} needs; run step 2 again")
    matrices = {}
    for features in sorted(needed):
        name = with_features(str(variant), features)
        matrices[features] = read_artifact(paths.matrix / task / name, matrix_command(name))
        load_matrix(paths, task, name, torch.device("cpu"))  # refuses what does not fit together
    prepared = Prepared(paths, task, data, variant, matrices)
    label = data.label(split_task(task)[1])
    for part, name in enumerate(SPLIT_NAMES[:2]):
        labels = label[prepared.rows_of(part)]
        if labels.min() == labels.max():
            raise UserError(f"{task}: every {name} row has label {labels[0]}; it takes both to train and to compare")
    return prepared
