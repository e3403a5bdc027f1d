"""The experiments of the study as data.

`STUDIES` is the list to edit. A study has a few cases, the rows of its table. Each case is trained once per seed, with
results taken after several numbers of epochs. adjust_hyperparameter.py runs them; tables, figures and the report read
them. The published figures are in published.json, beside this file.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from typing import Any

from mma4ctr.evaluation.baselines import BASELINES
from mma4ctr.features.variants import CONCAT, CROSS, GROUPS, SINGLE, STUDY, Variants, with_features
from mma4ctr.model.training_defaults import EPOCHS, TRAINING

MODEL = "MMa4CTR"
COMPARISON, COMPARISON_BY_EPOCH = "comparison", "comparison-by-epoch"
COMPUTATION = ("train_seconds", "test_seconds", "parameters")
TEN_AND_THIRTY = (10, 30)
# The published study starts at 10 epochs, where large models overfit small data (DIEN on real input: test AUC 0.85
# after 2 epochs, 0.81 after 10). So the comparison also takes results after fewer.
EARLY = (1, 2, 3, 5)
# On kuairand-real the validation AUC of MMa4CTR rose by at most 0.0001 from 30 to 100 epochs.
COMPARED_EPOCHS = (*EARLY, 10, 20, 30)
# On tiktok-real the validation AUC of trees still rises after 30 epochs, which are 300 trees.
MORE_EPOCHS = (50,)
# The default training of a case. There is no early stop, because results are taken after fixed numbers of epochs.
BASE_TRAINING = TRAINING["paper"] | {"batch_size": 0, "patience": 0, "loss": "bce"}
NO_HALVING = {"halve_every": 0}


@dataclass(frozen=True)
class Inputs:
    """How the features of a case are made. None means: as the user prepared them.

    Attributes:
        split: How step 1 splits the rows.
        evidence: The rows that the user embedding uses, `train` or `all`.
        length: Numbers per modality in the user embedding.
        scaling: How the matrix is scaled.
        folds: Number of folds of the user embedding; only used with evidence `train`.
        train_rows: Number of training rows in the user's split. It sets the automatic batch size of every case.
        variant: The default variant that the user's modalities allow.
    """

    split: str | None = None
    evidence: str | None = None
    length: int | None = None
    scaling: str | None = None
    folds: int | None = None
    train_rows: int | None = None
    variant: str | None = None

    def within(self, base: "Inputs") -> "Inputs":
        """These inputs, with the values of `base` in place of None."""
        return Inputs(
            *(theirs if own is None else own for own, theirs in zip(astuple(self), astuple(base), strict=True))
        )


@dataclass(frozen=True)
class Case:
    """One row of a study's table.

    Attributes:
        label: Its name in the table.
        variant: Name of the variant; None for the default one that the modalities allow.
        inputs: How its features are made.
        training: Fields of `TrainSettings` that differ from `BASE_TRAINING`; `batch_size` 0 is automatic.
        published: Keys of its figures in published.json below the task; `{metric}` and `{epochs}` are filled in.
        model: MMa4CTR, which the sweep trains, or a baseline, which baseline/comp.py trains.
        features: `paper`, `plus`, or `plus-<group>` for features plus without a group of columns.
    """

    label: str
    variant: str | None = None
    inputs: Inputs = field(default_factory=Inputs)
    training: dict[str, Any] = field(default_factory=dict)
    published: tuple[str, ...] = ()
    model: str = MODEL
    features: str = "paper"

    @property
    def own_epochs(self) -> int | None:
        """The number of epochs of a case on a cosine schedule, which ends there; None if a study chooses it."""
        return EPOCHS[self.features.partition("-")[0]] if self.training.get("schedule") == "cosine" else None

    def variant_name(self, default: str | None) -> str | None:
        """Name of the matrix that the case is trained on; `default` is used if it has no variant of its own."""
        variant = self.variant or default
        return with_features(variant, self.features) if variant else None


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: For --study and for file names.
        about: Caption of its table.
        column: Header of the first column of its table.
        cases: The rows of its table; with `mixes`, those of the data sets of the published study.
        epochs: Numbers of epochs after which results are taken.
        more_epochs: Numbers of epochs that count for the compared models only, in the choice of their best.
        mixes: Kind of variants (single, concat or cross) and number of modalities. On other data sets the cases are
            the variants of this kind and number.
    """

    name: str
    about: str
    column: str
    cases: tuple[Case, ...]
    epochs: tuple[int, ...] = TEN_AND_THIRTY
    more_epochs: tuple[int, ...] = ()
    mixes: tuple[str, int] | None = None


def cases_of(study: Study, known: Variants) -> tuple[Case, ...]:
    """The cases of a study on a data set with the variants `known`."""
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
            epochs=COMPARED_EPOCHS,
            more_epochs=MORE_EPOCHS,
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
            epochs=COMPARED_EPOCHS,
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
            "numbers per modality in the user embedding; 0 replaces it by the user's index",
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
            "features plus, with all columns and without each group, and the features of the published study",
            "features",
            (
                Case("plus", features="plus", training=TRAINING["plus"]),
                *(
                    Case(f"plus without {group}", features=f"plus-{group}", training=TRAINING["plus"])
                    for group in GROUPS
                ),
                Case("paper"),
            ),
            epochs=(EPOCHS["plus"],),
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
            "leakage: the same model under other splits, evidence and losses",
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
