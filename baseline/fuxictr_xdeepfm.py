"""xDeepFM (Lian and others, xDeepFM, KDD 2018) from FuxiCTR's layers, because FuxiCTR's wheel has no such model.

The logit is the sum of three: linear in the ids of the user and the item (`LogisticRegression`), the compressed
interactions of the fields (`CompressedInteractionNet`), and a network of the fields side by side (`MLP_Block`). The
fields are the user's, those of the item, and those of the history's items, averaged (`MaskedAveragePooling`), as in
BARS.
"""

from typing import Any

import torch
from fuxictr.pytorch.layers import (
    CompressedInteractionNet,
    FeatureEmbedding,
    LogisticRegression,
    MaskedAveragePooling,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr_batches import GROUP, LABEL, Batch


class XDeepFM(BaseModel):
    """The model, for batches of fuxictr_batches.py.

    Args:
        feature_map: FuxiCTR's description of the inputs.
        embedding_dim: Numbers of every embedding.
        learning_rate: Of Adam.
        cin_hidden_units: Feature maps of each layer of compressed interactions.
        dnn_hidden_units: Units of each layer of the network.
        settings: `net_dropout`, `batch_norm`, and the arguments of `BaseModel`.
    """

    def __init__(
        self,
        feature_map: Any,
        *,
        embedding_dim: int,
        learning_rate: float,
        cin_hidden_units: list[int],
        dnn_hidden_units: list[int],
        **settings: Any,
    ) -> None:
        dropout, batch_norm = settings.pop("net_dropout"), settings.pop("batch_norm")
        super().__init__(feature_map, **settings)
        of_item = sum(spec["source"] == "item" for spec in feature_map.features.values())
        fields = feature_map.num_fields + of_item  # the item's twice: its own, and those of the history
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.linear = LogisticRegression(feature_map)
        self.average = MaskedAveragePooling()
        self.interactions = CompressedInteractionNet(fields, cin_hidden_units)
        self.network = MLP_Block(
            fields * embedding_dim, dnn_hidden_units, output_dim=1, dropout_rates=dropout, batch_norm=batch_norm
        )
        self.compile(settings["optimizer"], settings["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Batch) -> dict[str, torch.Tensor]:
        """Predict a batch of n rows: `y_pred`, float32 (n, 1), probabilities."""
        columns, items, mask = inputs
        user = {name: values for name, values in columns.items() if name not in (GROUP, LABEL)}
        own = {name: values.view(len(mask), -1)[:, -1] for name, values in items.items()}
        of_items = self.embedding_layer(items)  # (n * (longest + 1), fields, numbers)
        of_items = of_items.view(len(mask), -1, of_items.shape[1] * of_items.shape[2])
        history = self.average(of_items[:, :-1], mask)
        of_user = self.embedding_layer(user)
        of_rows = [part.view(len(mask), -1, of_user.shape[2]) for part in (of_items[:, -1], history)]
        fields = torch.cat([of_user, *of_rows], dim=1)
        logit = self.linear(user | own) + self.interactions(fields) + self.network(fields.flatten(start_dim=1))
        return {"y_pred": self.output_activation(logit)}

    def get_labels(self, inputs: Batch) -> torch.Tensor:
        """The labels of a batch: float32 (n, 1)."""
        return inputs[0][LABEL].float().view(-1, 1)

    def get_group_id(self, inputs: Batch) -> torch.Tensor:
        """The users of a batch, for gAUC."""
        return inputs[0][GROUP]
