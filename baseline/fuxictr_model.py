"""Trains one FuxiCTR model on the rows of step 1 and scores its validation and test rows. Started by comp.py.

This file runs in FuxiCTR's own environment; of this project it imports worker.py, fuxictr_batches.py and
fuxictr_xdeepfm.py only. It gets a job file and the arrays of fuxictr_inputs.py, and answers as worker.py says.

FuxiCTR's: the models DIN, DIEN and DCNv2 (`model_zoo.LongCTR` of its wheel), all layers and embeddings, the frozen item
vectors, the loss, the optimizer, the training loop, the early stop (patience 2 on AUC + gAUC of the validation rows;
the best weights are kept), and the metrics that it prints. Ours: ids, batches, and xDeepFM, which its wheel lacks.

    .venv-fuxictr/bin/python baseline/fuxictr_model.py job.json
"""

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr_batches import GROUP, LABEL, Batches, ItemTables, Part, item_tables, user_codes
from fuxictr_xdeepfm import XDeepFM
from model_zoo.LongCTR import DIEN, DIN, DCNv2
from worker import Answer, answer_on_stdout, batch_size_of, peak_memory_mb, write_rows

MODELS = {"DIN": DIN, "DIEN": DIEN, "DCNv2": DCNv2, "xDeepFM": XDeepFM}
EMBEDDING, PATIENCE = 64, 2
METRICS = {"AUC": "auc", "gAUC": "gauc", "logloss": "logloss"}
# The steps an epoch should have at least: batches are halved, but not below the smallest.
STEPS, SMALLEST_BATCH = 500, 256


def feature_map_of(folder: Path, tables: ItemTables, users: int) -> FeatureMap:
    """FuxiCTR's description of the inputs.

    Args:
        folder: Where its file of the vocabulary is written.
        tables: The fields of items.
        users: Number of codes of users.

    Returns:
        The description: `user_id`, the fields of items, and the group of gAUC.
    """
    found = FeatureMap("bars", str(folder))
    found.labels, found.group_id, found.default_emb_dim = [LABEL], GROUP, EMBEDDING
    found.features[GROUP] = {"source": "", "type": "meta"}
    found.features["user_id"] = {"source": "user", "type": "categorical", "vocab_size": users, "padding_idx": 0}
    for name, size in tables.sizes.items():
        found.features[name] = {"source": "item", "type": "categorical", "vocab_size": size, "padding_idx": 0}
    found.features["item_emb"] |= {
        "embedding_dim": EMBEDDING,
        "pretrained_emb": str(tables.vectors),
        "pretrain_dim": tables.width,
        "freeze_emb": True,
        "oov_idx": tables.sizes["item_emb"] - 1,
        "feature_encoder": f"nn.Linear({EMBEDDING}, {EMBEDDING}, bias=False)",
    }
    found.num_fields = found.get_num_fields()
    vocabulary = {
        "user_id": {},
        "item_emb": dict(zip(tables.keys.tolist(), range(1, len(tables.keys) + 1), strict=True)),
    }
    (folder / "feature_vocab.json").write_text(json.dumps(vocabulary))
    return found


def build(job: Mapping[str, Any], feature_map: FeatureMap) -> Any:
    """The model with its published settings."""
    settings = dict(job["settings"])
    for name in ("history", "item_embedding", "min_rows", "batch_size"):
        del settings[name]
    root = Path(job["out"]) / "checkpoints"
    (root / feature_map.dataset_id).mkdir(parents=True)
    return MODELS[job["model"]](
        feature_map,
        embedding_dim=EMBEDDING,
        model_id=job["model"],
        model_root=str(root),
        task="binary_classification",
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=list(METRICS),
        monitor={"AUC": 1, "gAUC": 1},
        early_stop_patience=PATIENCE,
        verbose=0,
        gpu=-1,
        **settings,
    )


class Watch:
    """Measures the passes over the training rows of a model's `fit`, and answers after each.

    Args:
        model: The model. FuxiCTR calls its `eval_step` at the end of an epoch.
        answer: Writes an answer.
    """

    def __init__(self, model: Any, answer: Answer) -> None:
        self.passes = self.best_epoch = 0
        self.seconds = self.processor_seconds = 0.0
        self._model, self._answer, self._evaluate = model, answer, model.eval_step
        model.eval_step = self._end_of_pass
        self._start()

    def _start(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def _end_of_pass(self) -> None:
        self.seconds += time.perf_counter() - self._wall
        self.processor_seconds += time.process_time() - self._processor
        self.passes += 1
        best = self._model._best_metric
        self._evaluate()
        if self._model._best_metric != best:
            self.best_epoch = self.passes
        self._answer(epoch=self.passes)
        self._start()


def main() -> None:
    """Train the model of the job file and answer."""
    answer = answer_on_stdout()
    job = json.loads(Path(sys.argv[1]).read_text())
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    folder, settings, epochs = Path(job["out"]), job["settings"], max(job["checkpoint_epochs"])
    parts = {name: Part(folder, name) for name in ("train", "valid", "test")}
    users = user_codes(folder, parts["train"], settings["min_rows"])
    tables = item_tables(job, folder, parts["train"])
    model = build(job, feature_map_of(folder, tables, int(users.max()) + 1))
    size = batch_size_of(len(parts["train"]), settings["batch_size"], SMALLEST_BATCH, STEPS)
    batches = {name: Batches(part, users, tables, size, shuffle=name == "train") for name, part in parts.items()}

    watch = Watch(model, answer)
    model.fit(batches["train"], epochs=epochs, validation_data=batches["valid"])
    user_ids, item_ids = np.load(folder / "user_ids.npy"), np.load(folder / "item_ids.npy")
    seconds = 0.0
    for name in ("valid", "test"):
        part = parts[name]
        started = time.perf_counter()
        score = model.predict(batches[name])
        seconds = time.perf_counter() - started
        np.save(folder / f"{name}_{epochs}.npy", score)
        write_rows(folder, name, user_ids[part.user], item_ids[part.item], part.label)
    label, clip = part.label.astype(np.float64), job["clip"]
    printed = model.evaluate_metrics(label, score, ["AUC", "gAUC"], part.user)
    # A certain and wrong prediction costs 36 nats there and 16 in ours.
    printed |= model.evaluate_metrics(label, np.clip(score, clip, 1 - clip), ["logloss"])
    answer(
        checkpoint=epochs,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        rows_learned=len(parts["train"]),
        batch_size=size,
        learning_rate=settings["learning_rate"],
        device="cpu",
        best_epoch=watch.best_epoch,
        passes=watch.passes,
        patience=PATIENCE,
        train_seconds=watch.seconds,
        processor_seconds=watch.processor_seconds,
        test_seconds=seconds,
        peak_memory_mb=peak_memory_mb(),
        printed={ours: float(printed[theirs]) for theirs, ours in METRICS.items()},
    )


if __name__ == "__main__":
    main()
