"""The models that MMa4CTR is compared with: what each learns from and what its scores mean."""

from collections.abc import Mapping
from dataclasses import dataclass

# Raise it with every change of the columns or fields that models with `columns` get: runs on others do not count.
COLUMNS_VERSION = 1
# Raise it with every change of the histories that RecBole's models get.
HISTORIES_VERSION = 1

# Where a model runs: in this environment, or in one that `make` makes for its framework.
OWN, RECBOLE, FUXICTR = "own", "recbole", "fuxictr"


@dataclass(frozen=True)
class Baseline:
    """One model of the comparison.

    Attributes:
        name: The model's name in results.jsonl and in the tables.
        loss: The training loss, as `protocol` in results.jsonl names it.
        train_cost: Estimated seconds on one core per 1,000 training rows and epoch, until a finished run gives a
            measured value.
        score_cost: Estimated seconds on one core per 1,000 scored rows.
        ranking: The model learns a ranking from the training rows with label 1. Its scores are no probabilities, so
            they are Platt-scaled on the validation rows before LogLoss. Other models learn from every training row.
        features: The MMa4CTR features that the model gets beside the ids, `paper` or `plus`; empty for none. With
            features plus and the stored columns it gets the paper's features too.
        columns: The model gets the columns that step 1 has stored: trees all of them, LightGBM also rates; RecBole's
            models those of users and items as fields.
        histories: RecBole's model gets what the user acted on before the row.
        framework: OWN, RECBOLE or FUXICTR. FuxiCTR's models take data sets of BARS only.
        by_epoch: The model is trained in epochs.
    """

    name: str
    loss: str
    train_cost: float
    score_cost: float
    ranking: bool = False
    features: str = ""
    columns: bool = False
    histories: bool = False
    framework: str = RECBOLE
    by_epoch: bool = True

    @property
    def name_in_framework(self) -> str:
        """The name that the framework has for the model: `DIN` for `FuxiCTR DIN`."""
        return self.name.removeprefix("FuxiCTR ")

    @property
    def stops_early(self) -> bool:
        """Whether the number of epochs is a limit, and only the best epoch gives a result."""
        return self.framework == FUXICTR

    @property
    def matrices(self) -> tuple[str, ...]:
        """Features of the matrices that the model reads."""
        if self.columns and self.features == "plus":
            return ("paper", "plus")
        return (self.features,) if self.features else ()

    @property
    def inputs_setting(self) -> dict[str, int]:
        """The settings that tell runs on the present columns and histories from those of earlier versions."""
        columns = {"stored_columns": COLUMNS_VERSION} if self.columns else {}
        return columns | ({"histories": HISTORIES_VERSION} if self.histories else {})

    def rows_learned(self, rows: Mapping[str, int], positives: Mapping[str, int]) -> int:
        """The number of training rows that the model learns from.

        Args:
            rows: Number of rows of each part of the split.
            positives: Number of rows with label 1 of each part.
        """
        return positives["train"] if self.ranking else rows["train"]


BASELINES: dict[str, Baseline] = {
    model.name: model
    for model in (
        Baseline("BPR", "bpr", 0.01, 0.001, ranking=True),
        Baseline("FPMC", "bpr", 0.03, 0.001, ranking=True, histories=True),
        Baseline("NGCF", "bpr", 0.2, 0.01, ranking=True),
        Baseline("LightGCN", "bpr", 0.06, 0.005, ranking=True),
        Baseline("BERT4Rec", "ce", 0.25, 0.1, ranking=True, histories=True),
        Baseline("GCSAN", "ce", 0.27, 0.15, ranking=True, histories=True),
        Baseline("DIN", "bce", 0.015, 0.004, columns=True, histories=True),
        Baseline("DIEN", "bce", 0.025, 0.007, columns=True, histories=True),
        Baseline("DCNV2", "bce", 0.06, 0.02, features="paper", columns=True),
        Baseline("LightGBM", "bce", 0.003, 0.006, features="paper", columns=True, framework=OWN),
        Baseline("LightGBM plus", "bce", 0.003, 0.006, features="plus", columns=True, framework=OWN),
        Baseline("CatBoost", "bce", 0.01, 0.006, features="paper", columns=True, framework=OWN),
        Baseline("CatBoost plus", "bce", 0.01, 0.006, features="plus", columns=True, framework=OWN),
        Baseline("bias model", "none", 0.001, 0.001, framework=OWN, by_epoch=False),
        Baseline("FuxiCTR DIN", "bce", 5.0, 1.5, framework=FUXICTR),
        Baseline("FuxiCTR DIEN", "bce", 5.0, 1.5, framework=FUXICTR),
        Baseline("FuxiCTR DCNv2", "bce", 0.3, 0.1, framework=FUXICTR),
        Baseline("FuxiCTR xDeepFM", "bce", 0.5, 0.2, framework=FUXICTR),
    )
}
