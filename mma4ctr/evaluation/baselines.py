"""The models that MMa4CTR is compared with: what each learns from, and what its scores are."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Baseline:
    """One model of the comparison.

    Attributes:
        loss: what it is trained with, as told in `protocol`.
        ranking: it learns from the training rows with label 1 and ranks, so its scores are no probabilities: they are
            Platt-scaled on the validation rows before LogLoss. The others learn from every training row.
        features: those of MMa4CTR that it sees beside the ids, `paper` or `plus`; empty where it sees none.
        recbole: it is RecBole's and runs in the environment of `make baseline`.
        by_epoch: it is trained in epochs.
        train_cost, score_cost: seconds on one core for 1,000 rows learned in one epoch, and for 1,000 rows scored:
            what is expected before any run has told better.
    """

    name: str
    loss: str
    train_cost: float
    score_cost: float
    ranking: bool = False
    features: str = ""
    recbole: bool = True
    by_epoch: bool = True

    def rows_learned(self, rows: Mapping[str, int], positives: Mapping[str, int]) -> int:
        """The training rows it learns from, given the rows and positives of each part of the split."""
        return positives["train"] if self.ranking else rows["train"]


BASELINES: dict[str, Baseline] = {
    model.name: model
    for model in (
        Baseline("BPR", "bpr", 0.01, 0.001, ranking=True),
        Baseline("FPMC", "bpr", 0.03, 0.001, ranking=True),
        Baseline("NGCF", "bpr", 0.2, 0.01, ranking=True),
        Baseline("LightGCN", "bpr", 0.06, 0.005, ranking=True),
        Baseline("BERT4Rec", "ce", 0.25, 0.1, ranking=True),
        Baseline("GCSAN", "ce", 0.27, 0.15, ranking=True),
        Baseline("DIN", "bce", 0.015, 0.004),
        Baseline("DIEN", "bce", 0.025, 0.007),
        Baseline("DCNV2", "bce", 0.06, 0.02, features="paper"),
        Baseline("LightGBM", "bce", 0.003, 0.006, features="paper", recbole=False),
        Baseline("LightGBM plus", "bce", 0.003, 0.006, features="plus", recbole=False),
        Baseline("bias model", "none", 0.001, 0.001, recbole=False, by_epoch=False),
    )
}
