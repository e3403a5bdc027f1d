"""The study's experiments as data, and their tables made from results.jsonl.

`STUDIES` is the list to edit: a study is a few cases (rows of its table), each trained once per seed, with results
taken at several numbers of epochs. adjust_hyperparameter.py runs them; tables, figures and the report read them.
Published figures come from published.json, beside this file.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.data.interactions import interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.baselines import BASELINES, Baseline
from mma4ctr.evaluation.run_records import Result
from mma4ctr.features.behavioral.columns import GROUPS
from mma4ctr.features.variants import CONCAT, CROSS, SINGLE, STUDY, Variants, variants_for, with_features
from mma4ctr.model.training_defaults import TRAINING, default_batch_size
from mma4ctr.storage.artifacts import MANIFEST, read_artifact
from mma4ctr.storage.paths import Paths

MODEL = "MMa4CTR"
COMPARISON, COMPARISON_BY_EPOCH = "comparison", "comparison-by-epoch"
COMPUTATION = ("train_seconds", "test_seconds", "parameters")
TEN_AND_THIRTY = (10, 30)
# The study's epochs begin at 10, where models with many parameters have learned small data by heart (DIEN on real
# input: test AUC 0.85 after 2 epochs, 0.81 after 10). Whoever is compared may end earlier.
EARLY = (1, 2, 3, 5)
# How a case is trained where it says nothing else. Without early stop: results are taken at fixed epochs.
BASE_TRAINING = TRAINING["paper"] | {"batch_size": 0, "patience": 0, "loss": "bce"}
NO_HALVING = {"halve_every": 0}


@dataclass(frozen=True)
class Inputs:
    """How the features are made; None is as the user prepared them.

    `folds` count where the evidence is train. `train_rows` are those of the split that the user prepared: they decide
    the automatic batch size of every case. `variant` is the default one that the user's modalities allow.
    """

    split: str | None = None
    evidence: str | None = None
    length: int | None = None
    scaling: str | None = None
    folds: int | None = None
    train_rows: int | None = None
    variant: str | None = None

    def within(self, base: "Inputs") -> "Inputs":
        """These, with what is left open taken from `base`."""
        return Inputs(
            *(theirs if own is None else own for own, theirs in zip(astuple(self), astuple(base), strict=True))
        )


@dataclass(frozen=True)
class Case:
    """One row of a study's table.

    Attributes:
        label: its name there. variant: None is the default one, as far as the modalities allow it.
        published: where published.json has its figures, below the task; `{metric}` and `{epochs}` are filled in.
        training: fields of mlp.py's TrainSettings that differ from the study's base; `batch_size` 0 is `auto`.
        model: MMa4CTR, which the sweep trains, or a baseline, which baseline/comp.py does.
        features: `paper`, `plus`, or `plus-<group>` for those without a group of columns.
    """

    label: str
    variant: str | None = None
    inputs: Inputs = field(default_factory=Inputs)
    training: dict[str, Any] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    model: str = MODEL
    features: str = "paper"

    def variant_name(self, default: str | None) -> str | None:
        """The matrix it is trained on; `default` is the variant that stands for None, None where there is none."""
        variant = self.variant or default
        return with_features(variant, self.features) if variant else None


@dataclass(frozen=True)
class Study:
    """One experiment: `epochs` are the checkpoint_epochs at which results are taken; `about` is the caption.

    `mixes`: its cases are the variants of one kind (single, concat, cross) with so many modalities; `cases` are those
    of the study's data sets.
    """

    name: str
    about: str
    column: str
    cases: tuple[Case, ...]
    epochs: tuple[int, ...] = TEN_AND_THIRTY
    mixes: tuple[str, int] | None = None


def cases_of(study: Study, known: Variants) -> tuple[Case, ...]:
    """The cases of a study on a data set with these variants."""
    if study.mixes is None or known == STUDY:
        return study.cases
    kind, size = study.mixes
    made: dict[str, tuple[str, ...]] = getattr(known, kind)
    return tuple(Case(name, variant=name) for name, parts in made.items() if len(parts) == size)


def _variants(names: Iterable[str], table: str) -> tuple[Case, ...]:
    return tuple(Case(name, variant=name, published=("ablation", table, name, "{epochs}")) for name in names)


PLUS = Case(f"{MODEL} plus", features="plus", training=TRAINING["plus"])
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            COMPARISON,
            "every model on the same rows after the same number of epochs",
            "model",
            (
                PLUS,
                *(
                    Case(name, published=("comparison", "auc_logloss", name, "{metric}", "{epochs}"), model=name)
                    for name in (MODEL, *BASELINES)
                ),
            ),
            epochs=(*EARLY, 10, 20, 30, 50),
        ),
        Study(
            COMPARISON_BY_EPOCH,
            "test AUC of every model by the number of epochs",
            "model",
            (
                PLUS,
                *(
                    Case(name, published=("comparison", "auc_by_epoch", "{epochs}", name), model=name)
                    for name in (MODEL, *BASELINES)
                ),
            ),
            epochs=(*EARLY, *range(10, 101, 10)),
        ),
        Study(
            "epochs",
            "sensitivity to the number of epochs, without halving",
            "model",
            (Case(MODEL, training=NO_HALVING, published=("sensitivity", "epochs", "{epochs}")),),
            epochs=tuple(range(5, 101, 5)),
        ),
        Study(
            "learning-rate",
            "sensitivity to the learning rate, without halving",
            "learning rate",
            tuple(
                Case(
                    f"{rate:g}",
                    training={"learning_rate": rate, **NO_HALVING},
                    published=("sensitivity", "learning_rate", f"{rate:.5f}".rstrip("0"), "{epochs}"),
                )
                for rate in (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)
            ),
        ),
        Study(
            "batch-size",
            "sensitivity to the batch size, without halving",
            "batch size",
            tuple(
                Case(
                    str(size),
                    training={"batch_size": size, **NO_HALVING},
                    published=("sensitivity", "batch_size", str(size), "{epochs}"),
                )
                for size in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
            ),
        ),
        Study(
            "single-modal",
            "one modality alone",
            "modality",
            _variants([name for name in SINGLE if name not in ("fused", "face")], "single_modal"),
            mixes=("single", 1),
        ),
        Study(
            "two-modal-concat",
            "two modalities side by side",
            "variant",
            _variants([name for name, parts in CONCAT.items() if len(parts) == 2], "two_modal_concat"),
            mixes=("concat", 2),
        ),
        Study(
            "two-modal-cross",
            "two modalities multiplied element by element",
            "variant",
            _variants([name for name, parts in CROSS.items() if len(parts) == 2], "two_modal_cross"),
            mixes=("cross", 2),
        ),
        Study(
            "three-modal-cross",
            "three modalities multiplied element by element",
            "variant",
            _variants(["vat_cross"], "three_modal_cross"),
            mixes=("cross", 3),
        ),
        Study(
            "embedding-length",
            "numbers per modality in the user embedding; 0 is none, the user's index in its place",
            "length",
            tuple(
                Case(
                    str(length),
                    inputs=Inputs(length=length),
                    published=("ablation", "user_embedding_length", str(length), "{epochs}"),
                )
                for length in (0, 5, 11, 15, 21, 30)
            ),
        ),
        Study(
            "plus",
            "the features plus, all of them and without each group of columns, and the study's features",
            "features",
            (
                Case("plus", features="plus", training=TRAINING["plus"]),
                *(
                    Case(f"plus without {group}", features=f"plus-{group}", training=TRAINING["plus"])
                    for group in GROUPS
                ),
                Case("paper"),
            ),
        ),
        Study(
            "interrupt-halving",
            "with the validation interrupt and halving, and without both",
            "interrupt and halving",
            (
                Case("with", published=("ablation", "interrupt_and_halving", "with")),
                Case(
                    "without",
                    training={"max_interrupts": 0, **NO_HALVING},
                    published=("ablation", "interrupt_and_halving", "without"),
                ),
            ),
        ),
        Study(
            "protocol",
            "the leak audit: the same model under other splits, evidence and losses",
            "split, evidence, loss",
            tuple(
                Case(
                    f"{split}, {evidence}, {loss}",
                    inputs=Inputs(split=split, evidence=evidence),
                    training={"loss": loss},
                )
                for split in ("chronological", "random", "user")
                for evidence in ("train", "all")
                for loss in ("bce", "listwise")
            ),
        ),
    )
}


@cache
def published_figures() -> dict[str, Any]:
    """The published study's figures, by task."""
    tasks: dict[str, Any] = orjson.loads((Path(__file__).parent / "published.json").read_bytes())["tasks"]
    return tasks


def published_figure(task: str, case: Case, epochs: int, metric: str) -> float | None:
    """A published figure of a case, None where there is none. Metrics: those of a cell, and of the comparison also
    `train_seconds`, `test_seconds` and `parameters`.
    """
    path = case.published
    if path and metric in COMPUTATION:
        path = ("comparison", "computation", case.label, "{metric}")
    elif "{metric}" not in path and metric != "auc":
        return None
    found: Any = published_figures().get(task)
    for key in path:
        found = found.get(key.format(metric=metric, epochs=epochs)) if isinstance(found, dict) else None
    return float(found) if path and isinstance(found, int | float) else None


def _is_of_baseline(result: Result, task: str, model: Baseline, base: Inputs) -> bool:
    expected: dict[str, Any] = {"split": base.split, "loss": model.loss}
    if model.features:
        if (
            not base.variant
            or result.variant != with_features(base.variant, model.features)
            or result.embedding_length != base.length
        ):
            return False
        folds = base.folds if base.evidence == "train" else 0
        expected |= {"evidence": base.evidence, "scaling": base.scaling, "folds": folds}
    same = all(result.protocol[name] == value for name, value in expected.items())
    return same and (result.task, result.model) == (task, model.name)


def is_of_case(result: Result, task: str, case: Case, base: Inputs) -> bool:
    """Whether a run is one of a case's, apart from epochs and seed.

    Args:
        base: how the user's own inputs are made, in place of what the case leaves open.
    """
    same_split = base.train_rows is not None and result.protocol["split"] == base.split
    if same_split and result.rows["train"] != base.train_rows:  # step 1 has since made other rows
        return False
    if case.model in BASELINES:
        return _is_of_baseline(result, task, BASELINES[case.model], base)
    inputs = case.inputs.within(base)
    expected = BASE_TRAINING | case.training
    loss = expected.pop("loss")
    expected["batch_size"] = expected["batch_size"] or default_batch_size(expected["schedule"], base.train_rows or 0)
    expected |= {
        "task": task,
        "model": MODEL,
        "variant": case.variant_name(base.variant),
        "embedding_length": inputs.length,
    }
    protocol: dict[str, Any] = {
        "split": inputs.split,
        "evidence": inputs.evidence,
        "scaling": inputs.scaling,
        "loss": loss,
    }
    protocol["folds"] = inputs.folds if inputs.evidence == "train" else 0
    return all(getattr(result, name) == value for name, value in expected.items()) and all(
        result.protocol[name] == value for name, value in protocol.items()
    )


@dataclass(frozen=True)
class Cell:
    """The runs of one case at one number of epochs, one per seed."""

    task: str
    case: Case
    epochs: int
    runs: list[Result]

    def published(self, metric: str) -> float | None:
        """The published figure, None where there is none."""
        return published_figure(self.task, self.case, self.epochs, metric)

    def mean_and_deviation(self, metric: str) -> tuple[float, float] | None:
        """Over the seeds; None where there is no number. One seed has deviation 0."""
        values = [value for run in self.runs if (value := getattr(run, metric)) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def leaky(self) -> bool:
        """True where a run's features saw test labels."""
        return any(run.leaky for run in self.runs)


def prepared_inputs(paths: Paths, task: str) -> Inputs:
    """How the user's own inputs of a task are made: what the manifests of steps 1, 3 and 4 say, else the defaults."""
    graph = interactions_artifact(paths, split_task(task)[0])
    found: dict[str, Any] = {"evidence": "train", "length": 21, "scaling": "zscore", "folds": 5}
    modal = paths.modal / split_task(task)[0]
    known = variants_for(paths, task)
    made = (modal / MANIFEST).is_file()
    found["variant"] = known.widest(read_artifact(modal, "").manifest["modalities"]) if made else known.default
    embedding, matrix = paths.user_embedding / task, paths.matrix / task / str(found["variant"])
    if (embedding / MANIFEST).is_file():
        settings = read_artifact(embedding, "get_user_embedding.py").settings
        found |= {"evidence": settings["evidence"], "length": settings["length"]}
        found["folds"] = settings["folds"] or found["folds"]
    if (matrix / MANIFEST).is_file():
        found["scaling"] = read_artifact(matrix, "cross_matrix.py").settings["scaling"]
    return Inputs(split=graph.settings["split"], train_rows=graph.manifest["rows"]["train"], **found)


def cells(results: Sequence[Result], study: Study, task: str, base: Inputs, known: Variants = STUDY) -> list[Cell]:
    """The table of a study for one task: every case that has runs, at every checkpoint.

    `known`: the variants of its data set.
    """
    table = []
    for case in cases_of(study, known):
        own = [result for result in results if is_of_case(result, task, case, base)]
        if own:
            once = case.model in BASELINES and not BASELINES[case.model].by_epoch  # the same after any epochs
            for epochs in study.epochs:
                runs = {
                    result.seed: result for result in own if once or result.epochs == epochs
                }  # of equal seeds the last
                table.append(Cell(task, case, epochs, list(runs.values())))
    return table
