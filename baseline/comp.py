"""The comparison: the models that MMa4CTR is held against, on exactly its rows, and their tables.

Reads    graph_path/<dataset>/ with its .inter files; for LightGBM and DCNV2 also matrix_path/<task>/<variant>/
Writes   lines in saved_path/results.jsonl, the test rows' scores in torch_model_path/<task>/<run id>/,
         saved_path/tables/comparison.{md,csv}, comparison-by-epoch.{md,csv}

Every model scores every validation and test row, in the rows' order; AUC, GAUC and LogLoss come from the function
that mlp.py uses. RecBole's models run in the environment that `make baseline` makes, each training in a process of
its own; LightGBM and the bias model run in this one. MMa4CTR is trained by adjust_hyperparameter.py, which is
started for it. A run of 10 epochs is the beginning of one of 30, so results at several numbers of epochs are one
training. A run that stands in results.jsonl already, made from the same inputs, is not repeated.

    python baseline/comp.py --task tiktok_like --models BPR DIN LightGBM --epochs 10 20 30 50 --seeds 3
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mma4ctr.runtime.environment

import numpy as np
import torch

from mma4ctr.data.interactions import SPLIT_NAMES, TRAIN, Interactions, load_interactions
from mma4ctr.datasets import BUILT_IN, split_task
from mma4ctr.evaluation.baselines import BASELINES, Baseline
from mma4ctr.evaluation.comparison_tables import comparison_layout
from mma4ctr.evaluation.metrics import auc, platt_scaled, score_predictions
from mma4ctr.evaluation.run_records import Result, append_result, commit_of, now, read_results, run_folder, run_id_of
from mma4ctr.evaluation.studies import COMPARISON, COMPARISON_BY_EPOCH, MODEL, STUDIES
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.evaluation.tables import study_tables, write_tables
from mma4ctr.features.feature_matrix import FactorMatrix, load_matrix, negatives_setting
from mma4ctr.features.variants import MADE_BY, variant_kind, with_features
from mma4ctr.runtime.console import (
    RunsDisplay,
    Stopwatch,
    note,
    parser,
    print_table,
    run,
    unknown_name,
    warn,
    whole_number,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import cores
from mma4ctr.runtime.signals import FOLLOW
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, read_artifact
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.scratch import scratch_folder
from mma4ctr.storage.writable import demand_room_for_results

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".venv-baseline"
LAST_LINES = 8


@dataclass(frozen=True)
class Prepared:
    """One task, ready to be learned: its rows, its features and where they lie."""

    paths: Paths
    task: str
    data: Interactions
    variant: str | None
    matrices: Mapping[str, Artifact]  # by features

    def variant_of(self, model: Baseline) -> str:
        """The matrix that a model sees, `ids` where it sees none."""
        return with_features(str(self.variant), model.features) if model.features else "ids"

    def matrix_of(self, model: Baseline) -> Artifact | None:
        return self.matrices.get(model.features)

    @property
    def dataset(self) -> str:
        return split_task(self.task)[0]

    @property
    def target(self) -> str:
        return split_task(self.task)[1]


@dataclass(frozen=True)
class ComparedTraining:
    """One model with one seed, and the numbers of epochs after which results are taken."""

    prepared: Prepared
    model: Baseline
    seed: int
    checkpoint_epochs: tuple[int, ...]

    @property
    def name(self) -> str:
        """What tells it from others, for people."""
        return f"{self.prepared.task} {self.model.name} seed {self.seed}"

    @property
    def yaml(self) -> list[Path]:
        """RecBole's settings: of the data set, and of the model where it has its own."""
        if not self.model.recbole:
            return []
        of_data = self.prepared.dataset if self.prepared.dataset in BUILT_IN else "own"
        own = HERE / f"{self.model.name.lower()}.yaml"
        return [HERE / f"{of_data}.yaml", *([own] if own.is_file() else [])]

    def settings(self, checkpoint: int) -> dict[str, Any]:
        """Everything that decides a result, besides its inputs."""
        return {
            "model": self.model.name,
            "task": self.prepared.task,
            "epochs": checkpoint,
            "seed": self.seed,
            "yaml": [path.read_text() for path in self.yaml],
        }

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprint of what it learns from: the matrix, or where it sees ids only the interactions."""
        matrix = self.prepared.matrix_of(self.model)
        name, artifact = ("matrix", matrix) if matrix else ("interactions", self.prepared.data.artifact)
        return {name: artifact.fingerprint}

    def run_id(self, checkpoint: int) -> str:
        """The run's name, made from its settings and the fingerprint of its inputs."""
        return run_id_of(self.settings(checkpoint), *self.inputs.values())


def prepare(paths: Paths, task: str, models: Sequence[Baseline]) -> Prepared:
    """Load a task; raises `UserError` where a step is missing that one of the models needs."""
    dataset, _ = split_task(task)
    data = load_interactions(paths, dataset)
    variant = prepared_inputs(paths, task).variant
    matrices = {}
    # The bias model sees no features, but their rows are those of the paper's matrix.
    for features in sorted({model.features or "paper" for model in models if model.features or not model.recbole}):
        if variant:
            name = with_features(variant, features)
            made_by = MADE_BY[variant_kind(variant)] + ("" if features == "paper" else f" --features {features}")
            matrices[features] = read_artifact(paths.matrix / task / name, made_by)
            load_matrix(paths, task, name, torch.device("cpu"))  # refuses what does not fit together
    label = data.label(split_task(task)[1])
    for part, name in enumerate(SPLIT_NAMES[:2]):
        labels = label[data.split == part]
        if labels.min() == labels.max():
            raise UserError(f"{task}: every {name} row has label {labels[0]}; it takes both to train and to compare")
    return Prepared(paths, task, data, variant, matrices)


def write_features(matrix: FactorMatrix, folder: Path) -> None:
    """The feature matrix in factors for a process without this package; rows in the order train, valid, test."""
    groups = (matrix.train, matrix.valid, matrix.test)
    np.save(folder / "user_part.npy", matrix.user_part.numpy())
    np.save(folder / "item_part.npy", matrix.item_part.numpy())
    np.save(folder / "user_row.npy", np.concatenate([group.user_row.numpy() for group in groups]))
    np.save(folder / "item_row.npy", np.concatenate([group.item_row.numpy() for group in groups]))


def write_job(training: ComparedTraining, folder: Path, threads: int) -> list[str]:
    """Everything a training needs, as `job.json` and arrays in `folder`; returns the command to start it."""
    prepared, model = training.prepared, training.model
    job: dict[str, Any] = {
        "model": model.name,
        "seed": training.seed,
        "checkpoint_epochs": list(training.checkpoint_epochs),
        "threads": threads,
        "out": str(folder),
    }
    if not model.recbole:
        job |= {"paths": str(prepared.paths.file), "dataset": prepared.dataset, "task": prepared.task}
        job |= {"variant": prepared.variant_of(model) if model.features else prepared.variant}
    else:
        job |= {"graph": str(prepared.paths.graph / prepared.dataset), "label": prepared.target, "features": None}
        job |= {"yaml": list(map(str, training.yaml))}
        if model.features and prepared.variant:
            matrix = load_matrix(prepared.paths, prepared.task, prepared.variant_of(model), torch.device("cpu"))
            write_features(matrix, folder)
            job["features"] = str(folder)
    (folder / "job.json").write_text(json.dumps(job))
    python = str(ENVIRONMENT / "bin/python") if model.recbole else sys.executable
    script = HERE / ("recbole_model.py" if model.recbole else "own_model.py")
    return [python, str(script), str(folder / "job.json")]


class TrainingFailed(Exception):
    """A model's process ended badly; the message is the last lines it wrote."""


def train(
    training: ComparedTraining, threads: int, tell: Callable[[int, str], None], running: set[subprocess.Popen[str]]
) -> list[Result]:
    """One training in a process of its own; each result is recorded as soon as it is there.

    Args:
        running: holds the process while it lives, for whoever wants to end it.

    Raises `TrainingFailed`.
    """
    found: list[Result] = []
    started = now()
    with scratch_folder(training.prepared.paths.temp, "baseline-") as folder:
        command = write_job(training, folder, threads)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore", FOLLOW: "1"}
        log = folder / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                # It ends when its standard input does: with this process, whatever ends that.
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=environment,
            ) as process,
        ):
            running.add(process)
            try:
                for line in process.stdout or ():
                    answer = json.loads(line)
                    if "epoch" in answer:
                        tell(answer["epoch"], f"loss {answer['loss']:.4f}" if "loss" in answer else "")
                    else:
                        found.append(record(training, answer, folder, started))
            finally:
                if sys.exc_info()[0]:
                    process.kill()
                running.discard(process)
        if process.returncode:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise TrainingFailed("\n".join(lines[-LAST_LINES:]) or f"ended with exit code {process.returncode}")
    return found


def scored_rows(training: ComparedTraining, folder: Path, part: int) -> np.ndarray:
    """int64 positions of the rows of a part among the kept interactions.

    Raises `TrainingFailed` where the rows that the model has scored, or their labels, are others or in another order.
    """
    data, name = training.prepared.data, SPLIT_NAMES[part]
    rows = np.flatnonzero(data.split == part)
    expected = {
        "user": data.user_names[data.user[rows]],
        "item": data.item_names[data.item[rows]],
        "label": data.label(training.prepared.target)[rows],
    }
    for column, values in expected.items():
        found = np.load(folder / f"{name}_{column}.npy")
        # Ids are text where one of all is; those of a part may be numbers nevertheless.
        found, values = (
            (found, values) if found.dtype.kind != "U" != values.dtype.kind else (found.astype(str), values.astype(str))
        )
        if not np.array_equal(found, values):
            raise TrainingFailed(f"its {name} rows are not those of step 1: another {column}")
    return rows


def record(training: ComparedTraining, answer: dict[str, Any], folder: Path, started: str) -> Result:
    """Judge the scores after some number of epochs and append the result."""
    prepared, model, checkpoint = training.prepared, training.model, int(answer["checkpoint"])
    data = prepared.data
    label = data.label(prepared.target)
    valid, test = (scored_rows(training, folder, part) for part in (1, 2))
    valid_score, score = (np.load(folder / f"{name}_{checkpoint}.npy") for name in SPLIT_NAMES[1:])
    if not (np.isfinite(valid_score).all() and np.isfinite(score).all()):
        raise TrainingFailed(f"after {checkpoint} epochs it scores rows with numbers that are not finite")
    probability = platt_scaled(score, valid_score, label[valid]) if model.ranking else score
    scores = score_predictions(label[test], probability, data.user[test], score)
    matrix = prepared.matrix_of(model)
    settings = matrix.settings if matrix else {}
    rows = {name: int((data.split == part).sum()) for part, name in enumerate(SPLIT_NAMES)}
    learned = answer["rows_learned"]
    result = Result(
        run_id=training.run_id(checkpoint),
        task=prepared.task,
        model=model.name,
        variant=prepared.variant_of(model),
        protocol={
            "split": data.artifact.settings["split"],
            "evidence": settings.get("evidence", "train"),
            "folds": settings.get("folds", 0),
            "scaling": settings.get("scaling", "none"),
            "loss": model.loss,
            **negatives_setting(data.artifact.settings),
        },
        embedding_length=settings.get("embedding_length", 0),
        in_features=matrix.manifest["in_features"] if matrix else 0,
        parameters=answer["parameters"],
        epochs=checkpoint,
        best_epoch=checkpoint,
        batch_size=answer["batch_size"],
        learning_rate=answer["learning_rate"],
        halve_every=0,
        patience=0,
        max_interrupts=0,
        interrupts=0,
        seed=training.seed,
        device=answer["device"],
        rows=rows,
        positives={name: int(label[data.split == part].sum()) for part, name in enumerate(SPLIT_NAMES)},
        valid_auc=auc(label[valid], valid_score),
        auc=scores.auc,
        auc_error=scores.auc_error,
        gauc=scores.gauc,
        logloss=scores.logloss,
        train_seconds=answer["train_seconds"],
        test_seconds=answer["test_seconds"],
        rows_per_second=learned * checkpoint / answer["train_seconds"] if answer["train_seconds"] else 0.0,
        started=started,
        commit=commit_of(HERE),
    )
    with ArtifactWriter(
        run_folder(prepared.paths, prepared.task, result.run_id),
        step=5,
        made_by="comp.py",
        settings=training.settings(checkpoint),
        inputs=training.inputs,
    ) as writer:
        writer.array("scores", score)
        writer.manifest["rows"] = {"test": len(test)}
    append_result(prepared.paths.results, result)
    return result


def plan(
    prepared: Sequence[Prepared],
    models: Sequence[Baseline],
    checkpoint_epochs: Sequence[int],
    seeds: int,
    done: set[str],
) -> list[ComparedTraining]:
    """The trainings to do, with the checkpoint_epochs that no finished run has."""
    found = []
    for one in prepared:
        for model in models:
            for seed in range(seeds if model.by_epoch else 1):
                whole = ComparedTraining(
                    one, model, seed, tuple(sorted(set(checkpoint_epochs))) if model.by_epoch else (1,)
                )
                rest = tuple(
                    checkpoint for checkpoint in whole.checkpoint_epochs if whole.run_id(checkpoint) not in done
                )
                if rest:
                    found.append(replace(whole, checkpoint_epochs=rest))
    return found


def expected_seconds(results: Sequence[Result]) -> Callable[[ComparedTraining], float]:
    """How long a training will take: as long for a row as the model's last run, or as its table entry says."""
    cost = {}
    for result in results:
        if result.model in BASELINES and result.rows_per_second:
            cost[result.model] = 1 / result.rows_per_second, result.test_seconds / result.rows["test"]

    def seconds(training: ComparedTraining) -> float:
        data, model = training.prepared.data, training.model
        train = data.split == TRAIN
        positives = int(data.label(training.prepared.target)[train].sum())
        learned = model.rows_learned({"train": int(train.sum())}, {"train": positives})
        a_row, a_score = cost.get(model.name, (model.train_cost / 1000, model.score_cost / 1000))
        scored = len(data) - int(train.sum())
        return (
            8 + max(training.checkpoint_epochs) * learned * a_row + len(training.checkpoint_epochs) * scored * a_score
        )

    return seconds


def train_all(work: Sequence[ComparedTraining], cost: Callable[[ComparedTraining], float], jobs: int) -> int:
    """Do the trainings, the longest first, `jobs` at a time; returns how many failed."""
    failed = 0
    threads = max(1, cores() // jobs)
    running: set[subprocess.Popen[str]] = set()
    with RunsDisplay(sum(map(cost, work))) as display, ThreadPoolExecutor(jobs) as pool:

        def start(training: ComparedTraining) -> list[Result]:
            last = max(training.checkpoint_epochs)
            return train(
                training, threads, lambda epoch, shown: display.update(training.name, epoch, last, shown), running
            )

        waiting = {pool.submit(start, training): training for training in sorted(work, key=lambda one: -cost(one))}
        try:
            for future in as_completed(waiting):
                training = waiting[future]
                try:
                    results = future.result()
                except (TrainingFailed, UserError) as error:
                    failed += 1
                    display.finish(training.name, cost(training), f"{training.name}: failed")
                    warn(f"{training.name} failed:", *str(error).splitlines())
                    continue
                shown = ", ".join(f"{'-' if r.auc is None else format(r.auc, '.4f')} at {r.epochs}" for r in results)
                display.finish(training.name, cost(training), f"{training.name}: test AUC {shown}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):  # after Ctrl-C
                process.kill()
    return failed


def train_ours(paths: Paths, tasks: Sequence[str], seeds: int, jobs: int) -> int:
    """MMa4CTR, by the sweep; returns its exit code."""
    command = [sys.executable, str(HERE.parent / "adjust_hyperparameter.py"), "--paths", str(paths.file)]
    command += ["--study", COMPARISON, COMPARISON_BY_EPOCH, "--task", *tasks]
    command += ["--seeds", str(seeds), "--jobs", str(jobs)]
    with subprocess.Popen(command, env=os.environ | {FOLLOW: "1"}) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def chosen_models(names: Sequence[str]) -> list[str]:
    """The models named; raises `UserError` with those there are."""
    known = (MODEL, *BASELINES)
    for name in names:
        if name not in ("all", *known):
            raise unknown_name("model", name, ("all", *known))
    return list(known) if "all" in names else list(dict.fromkeys(names))


def main() -> int:
    options = parser(__doc__)
    add_task_options(options)
    names = ", ".join((MODEL, *BASELINES))
    options.add_argument("--models", nargs="+", default=["all"], metavar="M", help=f"all, or of {names}")
    options.add_argument(
        "--epochs",
        nargs="+",
        type=whole_number(1),
        default=list(STUDIES[COMPARISON].epochs),
        metavar="E",
        help="results after each",
    )
    options.add_argument(
        "--seeds", type=whole_number(1, 10_000), default=1, help="runs of each model, with seeds 0, 1, ..."
    )
    options.add_argument("--jobs", type=whole_number(1, 1000), help="processes; none: one per core, on CUDA one")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    models = chosen_models(arguments.models)
    tasks = chosen_tasks(paths, arguments)
    others = [BASELINES[name] for name in models if name != MODEL]
    if any(model.recbole for model in others) and not (ENVIRONMENT / "bin/python").exists():
        raise UserError(
            f"{ENVIRONMENT}: RecBole's environment is not there; `make baseline` makes it, or name models that do "
            "without it: --models "
            + " ".join([MODEL, *(model.name for model in BASELINES.values() if not model.recbole)])
        )
    demand_room_for_results(paths, tables=True)
    jobs = arguments.jobs or (1 if torch.cuda.is_available() else cores())
    failed = 0
    if MODEL in models and train_ours(paths, tasks, arguments.seeds, jobs):
        failed += 1
    prepared = [prepare(paths, task, others) for task in tasks]
    results = read_results(paths.results) if paths.results.exists() else []
    work = plan(prepared, others, arguments.epochs, arguments.seeds, {result.run_id for result in results})
    cost = expected_seconds(results)
    if work:
        minutes = max(sum(map(cost, work)) / jobs, max(map(cost, work))) / 60
        slowest = max(work, key=cost)
        note(
            f"{len(work)} trainings, about {minutes:.0f} minutes with {jobs} jobs; the longest is {slowest.name}, "
            f"{cost(slowest) / 60:.0f} minutes"
        )
        failed += train_all(work, cost, jobs)
    results = read_results(paths.results)
    written = write_tables(paths, results, [STUDIES[COMPARISON], STUDIES[COMPARISON_BY_EPOCH]], tasks)
    asked = replace(STUDIES[COMPARISON], epochs=tuple(sorted(set(arguments.epochs))))
    for task, table in study_tables(paths, results, asked, tasks).items():
        shown = comparison_layout(asked, table)
        print_table(f"Test results, {task}", shown.header[:5], [[text for text, _ in row[:5]] for row in shown.rows])
    runs = sum(len(training.checkpoint_epochs) for training in work)
    note(
        f"Comparison: {runs} runs to {paths.results}, {len(written)} tables to {paths.saved / 'tables'}, "
        f"{watch.seconds:.1f} s{f', {failed} failed' if failed else ''}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
