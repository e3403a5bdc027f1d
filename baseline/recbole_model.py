"""Trains one RecBole model on the rows of step 1 and scores its validation and test rows. Started by comp.py.

This file runs in the baselines' own environment, which has RecBole's older packages, and imports only worker.py of this
project. It gets a job file, reads step 1's `.inter` files, and answers with arrays and lines of JSON (see worker.py).
The models, their losses and their optimizer are RecBole's. What is ours is which rows and columns they see:

- the rows of each part of the split, in the order of the files, are what is scored; labels are those of the files;
- a model of rankings (BPR and its kin) learns from the training rows with label 1; a pair takes its negative from the
  rows that the same user was shown without acting;
- the history of any row, training or test, is what its user acted on in the training rows before the row's time, so
  no model sees a label of validation or test rows;
- DIN, DIEN and DCN-V2 get the columns of users and items as fields (recbole_fields.py), DCN-V2 also those of the row
  and our features. RecBole's DIN and DIEN use no field of the user, by design.

    .venv-baseline/bin/python baseline/recbole_model.py job.json
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, InputType, get_model, get_trainer, init_seed
from worker import Steps, answer_on_stdout, batch_size_of, train_and_score, write_rows

PARTS = ("train", "valid", "test")
# Rows that are scored at a time.
SCORING_ROWS = 4096
# BERT4Rec masks a fifth of the columns: at least one of them, however short the histories.
LEAST_HISTORY = 10
# The steps an epoch should have at least, and the batch sizes to choose from.
STEPS, SMALLEST_BATCH, LARGEST_BATCH = 50, 64, 2048


class Histories:
    """What each user acted on in the training rows, by time, and where each row stands in it.

    Args:
        user: int (rows,) of every part of the split.
        moment: int64 (rows,), their order in time, likewise.
        acted: bool (rows,), training rows with label 1.
        item: int (rows,), likewise.
        longest: Largest number of items of a history.
    """

    def __init__(self, user: np.ndarray, moment: np.ndarray, acted: np.ndarray, item: np.ndarray, longest: int) -> None:
        span = int(moment.max()) + 1
        key = user.astype(np.int64) * span + moment
        rows = np.flatnonzero(acted)
        rows = rows[np.argsort(key[rows], kind="stable")]
        self.items = torch.from_numpy(item[rows].astype(np.int64))
        self.end = np.searchsorted(key[rows], key, side="left")  # strictly before the row's moment
        self.begin = np.searchsorted(key[rows], user.astype(np.int64) * span, side="left")
        self.width = max(LEAST_HISTORY, min(longest, int((self.end - self.begin).max())))

    def padded(self, begin: torch.Tensor, end: torch.Tensor, width: int) -> torch.Tensor:
        """The last items between two places.

        Args:
            begin: int64 (rows,).
            end: int64 (rows,).
            width: Largest number of items.

        Returns:
            int64 (rows, width), zeros after the items.
        """
        begin = torch.maximum(begin, end - width)
        place = begin[:, None] + torch.arange(width)
        inside = place < end[:, None]
        return torch.where(inside, self.items[place.clamp(max=len(self.items) - 1)], 0)


class Rows(Dataset):
    """Step 1's rows as RecBole's data set; what a model needs besides ids is joined when a batch is made.

    Attributes:
        histories: The histories; None for a model without them.
        features: For each block of our features the field of its rows, and its values.
        generator: Draws the negatives of histories.
        mode: How the history is laid out: empty for none, `plain`, `with negatives`, `masked in training` or `masked`.
    """

    histories: Histories | None = None
    features: dict[str, tuple[str, torch.Tensor]]
    generator: torch.Generator
    mode = ""

    def join(self, df: Interaction) -> Interaction:
        """Add histories and features to the rows of a batch."""
        df = super().join(df)
        columns: dict[str, torch.Tensor] = {}
        if self.mode and "history_end" in df:  # RecBole joins bare items too, the negatives of pairs
            columns |= self._history(df)
        for name, (index, values) in self.features.items():
            columns[name] = torch.stack((values[df[index]], self._positions(values, len(df))), dim=-1)
        df.update(Interaction(columns))
        return df

    def _history(self, df: Interaction) -> dict[str, torch.Tensor]:
        assert self.histories is not None
        width = self.histories.width
        sequence = self.histories.padded(df["history_begin"], df["history_end"], width)
        length = (sequence > 0).sum(dim=1)
        if self.mode == "masked in training":
            # BERT4Rec learns from masked items of the sequence alone: the row's own item belongs to it.
            sequence = torch.cat((sequence, torch.zeros_like(sequence[:, :1])), dim=1)
            sequence[torch.arange(len(length)), length] = df[self.iid_field]
            length = length + 1
        elif self.mode == "masked":
            # RecBole puts the mask after the last item and drops the first column, so that one is left empty here.
            sequence = torch.cat((torch.zeros_like(sequence[:, :1]), sequence), dim=1)
            length = length + 1
        columns = {"item_id_list": sequence, "item_length": length.clamp(min=1)}
        if self.mode == "with negatives":
            drawn = torch.randint(1, self.item_num, sequence.shape, generator=self.generator)
            columns["neg_item_id_list"] = torch.where(sequence > 0, drawn, 0)
        return columns

    @staticmethod
    def _positions(values: torch.Tensor, rows: int) -> torch.Tensor:
        return torch.arange(1, values.shape[1] + 1, dtype=values.dtype).expand(rows, -1)


class ShownNegatives:
    """A sampler for pairs: an item that the same user was shown in the training rows and did not act on.

    Args:
        user: int (n,) of the training rows with label 0.
        item: int (n,), likewise.
        users: Number of users.
        items: Number of items.
        seed: Of the draws.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, users: int, items: int, seed: int) -> None:
        order = np.argsort(user, kind="stable")
        self._item = item[order]
        self._count = np.bincount(user, minlength=users)
        self._start = np.cumsum(self._count) - self._count
        self._items = items
        self._rng = np.random.default_rng(seed)

    def sample_by_user_ids(self, user_ids: np.ndarray, item_ids: np.ndarray, num: int) -> torch.Tensor:
        """Draw items for rows.

        Args:
            user_ids: int (rows,).
            item_ids: int (rows,); not used.
            num: Number of items for each row.

        Returns:
            int64 (num * rows,), one for each of the rows, `num` times over; any item if the user has none.
        """
        user = np.tile(user_ids, num)
        place = self._start[user] + (self._rng.random(len(user)) * self._count[user]).astype(np.int64)
        drawn = self._rng.integers(1, self._items, len(user))
        if len(self._item):
            drawn = np.where(self._count[user] > 0, self._item[np.minimum(place, len(self._item) - 1)], drawn)
        return torch.from_numpy(drawn)


def read_rows(job: dict[str, Any], config: Config) -> Rows:
    """All rows, as RecBole reads and numbers them, with `label` 0 or 1 and the places of their histories."""
    whole = Rows(config)
    whole.features = {}
    whole.generator = torch.Generator().manual_seed(job["seed"])
    whole._change_feat_format()
    return whole


def context_fields(job: dict[str, Any], whole: Rows) -> None:
    """Add the columns of the rows themselves: a token for a category, a float sequence of one number for a number."""
    for name, size in job["fields"].get("context", ()):
        values = torch.from_numpy(np.load(Path(job["graph"]) / f"{name}.npy"))
        if size:
            whole.set_field_property(name, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
            whole.field2id_token[name] = np.arange(size)
        else:
            values = torch.stack((values, torch.ones_like(values)), dim=-1)[:, None]
            whole.set_field_property(name, FeatureType.FLOAT_SEQ, FeatureSource.INTERACTION, 1)
            whole.field2bucketnum[name] = 2
            whole.config["numerical_features"] = [*whole.config["numerical_features"], name]
        whole.inter_feat.update(Interaction({name: values}))


def feature_fields(job: dict[str, Any], whole: Rows) -> None:
    """Add our features: a field for each block of columns, a float sequence with a weight for each."""
    arrays = Path(job["features"])
    for index in ("user_row", "item_row"):
        whole.inter_feat.update(Interaction({index: torch.from_numpy(np.load(arrays / f"{index}.npy"))}))
    for name, index in (("user_part", "user_row"), ("item_part", "item_row")):
        values = torch.from_numpy(np.load(arrays / f"{name}.npy"))
        width = values.shape[1]
        # RecBole takes the mean over the columns; the sum is what a linear layer has.
        whole.features[name] = index, values * width
        whole.set_field_property(name, FeatureType.FLOAT_SEQ, FeatureSource.INTERACTION, width)
        whole.field2bucketnum[name] = width + 1
    whole.config["numerical_features"] = [*whole.config["numerical_features"], *whole.features]


def split(whole: Rows, config: Config, ranking: bool, moment: np.ndarray | None) -> dict[str, Rows]:
    """Split the rows, after histories were added for a sequential model.

    Args:
        whole: All rows.
        config: RecBole's settings; the length of histories is set.
        ranking: Whether the model learns from the rows with label 1 only.
        moment: int64 (rows,), the order of the rows in time, for a model that needs histories.

    Returns:
        The rows of each part, and as `learn` the training rows that the model learns from.
    """
    label = whole.inter_feat["label"].numpy() > 0
    user, item = whole.inter_feat["user_id"].numpy(), whole.inter_feat["item_id"].numpy()
    training = np.arange(len(label)) < whole.file_size_list[0]
    if moment is not None:
        longest = config["MAX_ITEM_LIST_LENGTH"]
        whole.histories = Histories(user, moment, training & label, item, longest)
        config["MAX_ITEM_LIST_LENGTH"] = whole.histories.width
        columns = {"history_begin": whole.histories.begin, "history_end": whole.histories.end}
        whole.inter_feat.update(Interaction({name: torch.from_numpy(values) for name, values in columns.items()}))
        whole.mode = {"DIEN": "with negatives", "BERT4Rec": "masked"}.get(config["model"], "plain")
        if whole.mode == "masked":
            config["MAX_ITEM_LIST_LENGTH"] += 1
    bounds = np.concatenate([[0], np.cumsum(whole.file_size_list)])
    parts = {
        name: whole.copy(whole.inter_feat[start:end])
        for name, start, end in zip(PARTS, bounds[:-1], bounds[1:], strict=True)
    }
    learn = training & label if ranking else training
    if ranking and whole.histories:
        learn = learn & (whole.histories.end > whole.histories.begin)
    parts["learn"] = whole.copy(whole.inter_feat[np.flatnonzero(learn)])
    if whole.mode == "masked":
        parts["learn"].mode = "masked in training"
    return parts


@torch.no_grad()
def score(model: Any, rows: Rows, device: torch.device) -> np.ndarray:
    """float64 (rows,): the model's score of every row, in the rows' order."""
    model.eval()
    found = []
    for start in range(0, len(rows), SCORING_ROWS):
        batch = rows[start : start + SCORING_ROWS].to(device)
        found.append(model.predict(batch).reshape(-1).double().cpu())
    return torch.cat(found).numpy()


def trainable_parameters(model: torch.nn.Module) -> int:
    """Numbers that training has moved: those that got a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)


def raw_ids(rows: Rows, field: str) -> np.ndarray:
    """(rows,): the ids as they stand in the files: int64, or text where one is no whole number."""
    text = rows.id2token(field, rows.inter_feat[field].numpy()).astype(str)
    try:
        number = text.astype(np.int64)
    except (ValueError, OverflowError):
        return text
    return number if np.array_equal(number.astype(str), text) else text


def settings_of(job: dict[str, Any]) -> dict[str, Any]:
    """RecBole's settings besides the yaml files."""
    target = job["label"]
    fields = job["fields"]
    settings: dict[str, Any] = {
        "data_path": str(Path(job["graph"]).parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp", target]}
        | {side: [f"{side}_id", *fields[side]] for side in ("user", "item") if fields.get(side)},
        "numerical_features": fields.get("numbers", []),
        "threshold": {target: 0.5},
        "seed": job["seed"],
        "show_progress": False,
    }
    if getattr(get_model(job["model"]), "input_type", None) != InputType.PAIRWISE:
        settings["train_neg_sample_args"] = None
    return settings


def main() -> None:
    """Train the model of the job file and answer."""
    answer = answer_on_stdout()
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.argv = sys.argv[:1]  # RecBole takes options from there
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    config = Config(
        model=job["model"],
        dataset=Path(job["graph"]).name,
        config_file_list=job["yaml"],
        config_dict=settings_of(job),
    )
    init_seed(config["seed"], config["reproducibility"])
    ranking = not (config["MODEL_INPUT_TYPE"] == InputType.POINTWISE and "loss_type" not in config)
    sequential = config["MODEL_TYPE"].name == "SEQUENTIAL"
    whole = read_rows(job, config)
    if not sequential:
        context_fields(job, whole)
    if job["features"]:
        feature_fields(job, whole)
    parts = split(whole, config, ranking, np.load(job["moments"]) if sequential else None)
    learn = parts["learn"]
    if config["train_batch_size"] == 2048:
        config["train_batch_size"] = batch_size_of(len(learn), LARGEST_BATCH, SMALLEST_BATCH, STEPS)
    sampler = None
    if config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE:
        passed = parts["train"].inter_feat[parts["train"].inter_feat["label"] == 0]
        user, item = (passed[field].numpy() for field in ("user_id", "item_id"))
        sampler = ShownNegatives(user, item, whole.user_num, whole.item_num, config["seed"])
    loader = TrainDataLoader(config, learn, sampler, shuffle=True)
    model = get_model(config["model"])(config, learn).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    # One of RecBole's modules turns this on for all when it is imported. It looks for NaN in every gradient and changes
    # nothing else: without it an epoch of DIEN took 7.5 s in place of 18, of BERT4Rec 11.5 in place of 20.
    torch.autograd.set_detect_anomaly(False)
    scored = {name: parts[name] for name in ("valid", "test")}
    for name, rows in scored.items():
        write_rows(
            Path(job["out"]), name, raw_ids(rows, "user_id"), raw_ids(rows, "item_id"), rows.inter_feat["label"].numpy()
        )

    def train_epoch(epoch: int) -> dict[str, float]:
        return {"loss": trainer._train_epoch(loader, epoch - 1) / len(loader)}

    def facts() -> dict[str, Any]:
        return {
            "parameters": trainable_parameters(model),
            "rows_learned": len(learn),
            "batch_size": config["train_batch_size"],
            "learning_rate": config["learning_rate"],
            "device": str(config["device"]),
        }

    train_and_score(job, answer, Steps(train_epoch, lambda part: score(model, scored[part], config["device"]), facts))


if __name__ == "__main__":
    main()
