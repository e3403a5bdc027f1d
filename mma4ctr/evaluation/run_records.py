"""results.jsonl: one line per finished run, the same schema for every model. Every table and figure starts here.

`python -m mma4ctr.evaluation` prints the newest result of every task, model and variant.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_origin, get_type_hints

import numpy as np
import orjson

from mma4ctr.data.interactions import SPLIT_NAMES, interactions_artifact
from mma4ctr.datasets import split_task
from mma4ctr.evaluation.ground_truth import oracle_auc
from mma4ctr.runtime.console import warn
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, fingerprint_of, read_artifact
from mma4ctr.storage.locks import locked
from mma4ctr.storage.paths import Paths


@dataclass(frozen=True)
class Result:
    """One finished run (design section 8). `auc` and `gauc` are None where they are not defined, `auc` also where
    training collapsed for good. `valid_auc` is that of the validation rows at the weights that were tested,
    `auc_error` the standard error of `auc`.

    Seconds are wall-clock: `train_seconds` of the passes over the training rows, `test_seconds` from the test rows'
    places in the tables to their scores.
    """

    run_id: str
    task: str
    model: str
    variant: str
    protocol: dict[str, Any]
    embedding_length: int
    in_features: int
    parameters: int
    epochs: int
    best_epoch: int
    batch_size: int
    learning_rate: float
    halve_every: int
    patience: int
    max_interrupts: int
    interrupts: int
    seed: int
    device: str
    rows: dict[str, int]
    positives: dict[str, int]
    valid_auc: float | None
    auc: float | None
    gauc: float | None
    logloss: float | None
    train_seconds: float
    test_seconds: float
    rows_per_second: float
    started: str
    commit: str
    auc_error: float | None = None
    networks: int = 1
    schedule: str = "halving"

    @property
    def auc_interval(self) -> tuple[float, float] | None:
        """Where AUC lies in 95 of 100 draws of test rows; None where that is not known."""
        if self.auc is None or self.auc_error is None:
            return None
        return max(0.0, self.auc - 1.96 * self.auc_error), min(1.0, self.auc + 1.96 * self.auc_error)

    @property
    def leaky(self) -> bool:
        """True where the protocol lets test labels, or their users' other test labels, into the features."""
        return self.protocol["evidence"] == "all"


RUN = re.compile("[0-9a-f]{12}")
TASK = re.compile(r"[A-Za-z0-9][\w.-]*_[\w.-]+", re.ASCII)
VARIANT = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
FIELDS = tuple(Result.__dataclass_fields__)


def run_id_of(settings: dict[str, Any], inputs: str) -> str:
    """The name of a run: 12 hex digits from its settings and the fingerprint of its inputs."""
    return fingerprint_of({"settings": settings, "inputs": inputs})[:12]


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit_of(folder: Path) -> str:
    """The git commit of the code, with `+` where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def append_result(path: Path, result: Result) -> None:
    """Add one line, whole and synced, however many processes write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = orjson.dumps(asdict(result)) + b"\n"
    with locked(path, wait=True), path.open("a+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size:
            handle.seek(size - 1)
            if handle.read(1) != b"\n":
                line = b"\n" + line  # a writer was killed in the middle of its line
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())


# What a field may be in JSON, where it is not simply its type. A number without decimals is a whole number there.
_KINDS: dict[Any, tuple[type, ...]] = {float: (float, int), float | None: (float, int, NoneType)}
_PROTOCOL = ("split", "evidence", "folds", "scaling", "loss")


# Names that results of earlier versions have, and what they are called now.
RENAMED_MODELS = {"rates": "bias model"}
RENAMED_GROUPS = {
    "user-rate": "user-bias",
    "item-rate": "item-bias",
    "content": "content-bias",
    "taste": "content-factors",
    "alike": "label-svd",
    "shown-alike": "exposure-svd",
}


def with_new_names(content: dict[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl with the model and the feature group under the names that they have now."""
    renamed = dict(content)
    if isinstance(content.get("model"), str):
        renamed["model"] = RENAMED_MODELS.get(content["model"], content["model"])
    if isinstance(content.get("variant"), str):
        features, sign, group = content["variant"].partition(".plus-")
        renamed["variant"] = features + sign + RENAMED_GROUPS.get(group, group)
    if interrupt := renamed.pop("interrupt", None):
        renamed["schedule"] = "halving" if interrupt == "collapse" else str(interrupt)
    return renamed


def result_of(content: Any) -> Result:
    """A line of results.jsonl as a `Result`; raises TypeError for anything that is not one."""
    if not isinstance(content, dict):
        raise TypeError("not a JSON object")
    result = Result(**with_new_names(content))
    for name, kind in get_type_hints(Result).items():
        value = getattr(result, name)
        kinds = _KINDS.get(kind, (get_origin(kind) or kind,))
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    # These become parts of paths, whether or not this path.json knows the data set.
    if not (RUN.fullmatch(result.run_id) and TASK.fullmatch(result.task) and VARIANT.fullmatch(result.variant)):
        raise TypeError(f"{result.task} {result.variant} {result.run_id} names no run")
    missing = [key for key in _PROTOCOL if key not in result.protocol]
    missing += [part for part in SPLIT_NAMES if part not in result.rows or part not in result.positives]
    if missing:
        raise TypeError(f"{missing[0]} is missing")
    return result


def read_results(path: Path) -> list[Result]:
    """The finished runs in order of writing; of runs with one id the last.

    A damaged line is reported with its number and passed over. Raises `UserError` where there is no result yet.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no results yet; run mlp.py first") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; results are kept in this file, make room for it") from None
    found: dict[str, Result] = {}
    damaged = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = result_of(orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError) as error:
            damaged += 1
            if damaged <= 3:
                warn(f"{path}:{number}: not a result, passed over ({error})")
            continue
        found.pop(result.run_id, None)
        found[result.run_id] = result
    if damaged > 3:
        warn(f"{path}: {damaged - 3:,} more lines are not results")
    return list(found.values())


def newest_of_each(results: Sequence[Result], wanted: Callable[[Result], bool] = lambda result: True) -> list[Result]:
    """The last run of every task, model, variant and protocol, of those wanted, sorted."""
    last = {(r.task, r.model, r.variant, fingerprint_of(r.protocol)): r for r in results if wanted(r)}
    return sorted(last.values(), key=lambda r: (r.task, r.model, r.variant))


def run_folder(paths: Paths, task: str, run_id: str) -> Path:
    """Where a run of mlp.py lies."""
    return paths.torch_model / task / run_id


def id_of_run(artifact: Artifact) -> str:
    """The id of the run in a folder, made from its settings and inputs as `run_id_of` makes it."""
    return run_id_of(artifact.settings, *artifact.manifest["inputs"].values())


def read_run(paths: Paths, result: Result) -> Artifact:
    """The folder of a run.

    Raises:
        UserError: It is missing or damaged, or holds another run: a run's id is made from its settings and inputs.
    """
    folder = run_folder(paths, result.task, result.run_id)
    artifact = read_artifact(folder, "mlp.py" if result.model == "MMa4CTR" else "comp.py")
    found = id_of_run(artifact)
    if found != result.run_id:
        raise UserError(f"{folder}: holds the run {found}, not {result.run_id}; move it to its own folder or remove it")
    return artifact


def read_history(paths: Paths, result: Result) -> list[dict[str, Any]]:
    """The epochs of a run of mlp.py; empty where its folder is gone."""
    there = run_folder(paths, result.task, result.run_id).is_dir()
    return list(read_run(paths, result).json("history")) if there else []


def test_scores(paths: Paths, result: Result) -> np.ndarray | None:
    """What a run ranks the test rows by, (rows,) in their order; None where it has not been kept."""
    folder = run_folder(paths, result.task, result.run_id)
    for name in ("predictions", "scores"):
        if (folder / f"{name}.npy").is_file():
            return read_run(paths, result).array(name)
    return None


def keeps_predictions(paths: Paths) -> Callable[[Result], bool]:
    """A test for runs whose test predictions are on disk: those of mlp.py, not the many of the sweeps."""
    return lambda result: (run_folder(paths, result.task, result.run_id) / "predictions.npy").is_file()


def find_run(paths: Paths, run_id: str) -> Result:
    """The result of a run of mlp.py, of `last` the newest that keeps its predictions; raises `UserError` for others."""
    known = {result.run_id: result for result in read_results(paths.results) if result.model == "MMa4CTR"}
    if run_id == "last":
        run_id = next((r.run_id for r in reversed(known.values()) if keeps_predictions(paths)(r)), run_id)
    if run_id in known:
        return known[run_id]
    last = ", ".join(f"{result.run_id} ({result.task} {result.variant})" for result in list(known.values())[-5:])
    raise UserError(f"--run {run_id}: {paths.results} holds no such run of mlp.py; the newest are {last or 'none'}")


def drawn_negatives(result: Result) -> str:
    """What the protocol says where the negatives were drawn, not seen; empty where they were seen."""
    count = result.protocol.get("negatives")
    return f", {count} negative{'s' if count > 1 else ''} drawn for each positive" if count else ""


def results_rows(paths: Paths, results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of runs, with the oracle's AUC where the data are simulated."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    rows = []
    for result in results:
        oracle = oracle_auc(paths, result.task) if result.protocol["split"] == split_of(paths, result.task) else None
        share = (result.auc - 0.5) / (oracle - 0.5) if oracle and result.auc else None
        seconds = f"{result.train_seconds + result.test_seconds:.1f}"
        scores = [number(result.auc, ".4f"), number(result.gauc, ".4f"), number(result.logloss, ".4f")]
        protocol = ", ".join(str(result.protocol[key]) for key in ("split", "evidence", "scaling", "loss"))
        protocol += drawn_negatives(result)
        name = result.variant if result.model == "MMa4CTR" else result.model
        sizes = [str(result.in_features), f"{result.parameters:,}"]
        protocol += ", LEAKY" if result.leaky else ""
        numbers = [*sizes, *scores, number(oracle, ".4f"), number(share, ".1%"), seconds]
        rows.append([result.task, name, *numbers, protocol])
    header = ["task", "variant", "inputs", "parameters", "AUC", "GAUC", "LogLoss", "oracle AUC", "share", "seconds"]
    return [*header, "protocol"], rows


def split_of(paths: Paths, task: str) -> str:
    """The split of the rows that step 1 has prepared, to which the oracle belongs."""
    return str(interactions_artifact(paths, split_task(task)[0]).settings["split"])
