"""Step 5 of 8: train the MLP on a feature matrix, test it, write one line of results.

Reads    graph_path/<dataset>/, user_embedding_path/<task>/, matrix_path/<task>/<variant>/
Writes   torch_model_path/<task>/<run id>/: model.safetensors, history.json, and for the test rows predictions.npy,
         hidden.npy (the 4 numbers before the last layer) and rows.npy; one line in saved_path/results.jsonl

    Linear(in,128) Tanh Linear(128,32) Tanh Linear(32,4) Tanh Linear(4,1) Sigmoid

trained with Adam on logits. The learning rate halves every few epochs. An epoch that ends with validation AUC of
0.5 or less, or a loss that is not finite, is thrown away and tried again with half the rate (the validation
interrupt). Training ends early when validation AUC no longer improves. Test rows are looked at once, at the end.

    python mlp.py --task wechat_click --variant vat_concat --epochs 30

A trained run scores pairs of users and items from a TSV with these columns, or finds the best items for users:

    python mlp.py --run 3f2a90c1d7be --predict pairs.tsv
    python mlp.py --run last --predict users.tsv --top 10
    python mlp.py --run last --onnx model.onnx

Started by torchrun, several processes train together, each with its share of every batch:

    torchrun --nproc-per-node 2 mlp.py --task wechat_click
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mma4ctr.environment

import numpy as np
import torch

from mma4ctr.artifacts import ArtifactWriter, read_artifact
from mma4ctr.console import (
    Stopwatch,
    UserError,
    closing_line,
    note,
    parser,
    positive_number,
    progress,
    run,
    seed_number,
    warn,
    whole_number,
)
from mma4ctr.distributed import ALONE, Ranks, join_ranks, local_device
from mma4ctr.export import onnx_model
from mma4ctr.files import own_file_replaced
from mma4ctr.matrix import FactorMatrix, load_matrix, load_step_inputs, read_matrix, with_features
from mma4ctr.metrics import Scores, score_predictions
from mma4ctr.network import Network, automatic_batch_size, save_weights
from mma4ctr.outputs import demand_room_for_results
from mma4ctr.paths import Paths, load_paths
from mma4ctr.results import Result, append_result, commit_of, id_of_run, now, run_folder, run_id_of
from mma4ctr.scoring import find_run, load_network, load_scorer, predict, score_pairs, top_items
from mma4ctr.tasks import (
    DEFAULT_VARIANT,
    STUDY,
    TRAINING,
    add_features_option,
    add_task_options,
    add_variant_option,
    chosen_tasks,
    chosen_variants,
    variants_for,
)
from mma4ctr.training import INTERRUPTS, LOSSES, MLP, Epoch, Outcome, TrainSettings, train
from mma4ctr.user_output import user_output

# With fewer positives among the test rows AUC is told with its interval.
FEW_POSITIVES = 100


def run_settings(features: dict[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Everything that decides a result, besides the input arrays; the run's id is made from it.

    Args:
        features: task, variant, embedding_length, split, evidence, folds, scaling: the matrix's own settings.
    """
    training = asdict(settings)
    for name in ("networks", "interrupt"):
        if training[name] == getattr(TrainSettings, name):
            del training[name]  # a usual run is named as before there was a choice
    return {"model": "MMa4CTR", **features, **training}


def _predictions_kept(names: Iterable[str]) -> int:
    """How much a run keeps of its test predictions: 2 all arrays, 1 the scores alone, 0 nothing."""
    return 2 if "predictions" in names else int("scores" in names)


def fuller_run(folder: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The test predictions of the finished run in its folder, where it keeps more than `arrays`; else None.

    A sweep keeps less of a run than mlp.py does, so it must not replace the folder of one.
    """
    try:
        run = read_artifact(folder, "mlp.py")
        if id_of_run(run) == folder.name and _predictions_kept(run.array_names) > _predictions_kept(arrays):
            run.check_files()
            return run.array("predictions" if "predictions" in run.array_names else "scores")
    except UserError:
        pass  # not there, or damaged: it is written anew
    return None


def finish_run(
    paths: Paths, matrix: FactorMatrix, outcome: Outcome, user: np.ndarray, started: str, *, keep: str = "all"
) -> Result:
    """Score the test rows, write the run's folder and its line in results.jsonl.

    Args:
        user: (kept rows,) user of every interaction, for GAUC.
        keep: of the test rows write `all`, predictions and hidden features; `scores`, for the comparison; or `nothing`.
    """
    settings, test = outcome.settings, matrix.test
    device = test.label.device
    identity = run_settings(matrix.settings, settings)
    run_id = run_id_of(identity, matrix.fingerprint)
    label = test.label.cpu().numpy()
    folder = run_folder(paths, matrix.settings["task"], run_id)
    inputs = {"matrix": matrix.fingerprint}
    scores: Scores | None = None
    test_seconds = 0.0
    arrays: dict[str, np.ndarray] = {}
    if outcome.weights:
        watch = Stopwatch()
        logits, hidden = predict(Network(outcome.weights), matrix, test)
        probability = torch.sigmoid(logits).cpu().numpy()
        test_seconds = watch.seconds
        if keep == "scores":
            arrays = {"scores": probability}
        if keep == "all":
            arrays = {"rows": test.rows, "predictions": probability, "hidden": hidden.cpu().numpy()}
    fuller = fuller_run(folder, arrays)
    if fuller is not None and outcome.weights:
        probability = fuller  # so that the line in results.jsonl is about the predictions that are kept
    if outcome.weights:
        scores = score_predictions(label, probability, user[test.rows])
    if fuller is None:
        with ArtifactWriter(folder, step=5, made_by="mlp.py", settings=identity, inputs=inputs) as writer:
            writer.json("history", [asdict(epoch) for epoch in outcome.history])
            if outcome.weights:
                save_weights(writer.building / "model.safetensors", outcome.weights)
            for name, values in arrays.items():
                writer.array(name, values)
            writer.manifest["rows"] = {"test": len(test)}
    groups = {"train": matrix.train, "valid": matrix.valid, "test": test}
    result = Result(
        run_id=run_id,
        task=matrix.settings["task"],
        model="MMa4CTR",
        variant=matrix.settings["variant"],
        protocol={**matrix.protocol, "loss": settings.loss},
        embedding_length=matrix.settings["embedding_length"],
        in_features=matrix.in_features,
        parameters=settings.networks * sum(values.numel() for values in MLP(matrix.in_features).parameters()),
        epochs=settings.epochs,
        best_epoch=outcome.best_epoch,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        halve_every=settings.halve_every,
        patience=settings.patience,
        max_interrupts=settings.max_interrupts,
        interrupts=outcome.interrupts,
        seed=settings.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        rows={name: len(group) for name, group in groups.items()},
        positives={name: int(group.label.sum()) for name, group in groups.items()},
        valid_auc=outcome.history[outcome.best_epoch - 1].valid_auc if outcome.best_epoch else None,
        auc=scores.auc if scores else None,
        auc_error=scores.auc_error if scores else None,
        gauc=scores.gauc if scores else None,
        logloss=scores.logloss if scores else None,
        train_seconds=outcome.seconds,
        test_seconds=test_seconds,
        rows_per_second=outcome.rows_per_second,
        started=started,
        commit=commit_of(Path(__file__).parent),
        networks=settings.networks,
        interrupt=settings.interrupt,
    )
    append_result(paths.results, result)
    return result


def choose_device(name: str) -> torch.device:
    """`auto`, or a device of torch; raises `UserError` where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def run_marks(
    paths: Paths,
    task: str,
    variant: str,
    settings: TrainSettings,
    marks: Sequence[int],
    device: torch.device,
    *,
    keep: str = "all",
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ranks: Ranks = ALONE,
) -> list[tuple[Result, Outcome]]:
    """Load, train once, test and record a run for each mark; `batch_size` 0 chooses the batch size.

    Of several ranks the first alone tests and records; the others return nothing.
    """
    matrix = load_matrix(paths, task, variant, device)
    user = load_step_inputs(paths, task).data.user
    settings = replace(settings, batch_size=settings.batch_size or automatic_batch_size(len(matrix.train)))
    started = now()
    outcomes = train(matrix, settings, marks, on_epoch, ranks)
    if not ranks.first:
        return []
    return [(finish_run(paths, matrix, one, user, started, keep=keep), one) for one in outcomes]


def tell(result: Result, outcome: Outcome) -> None:
    """One line about a finished run, and a warning where it should not be trusted."""
    name = f"{result.task} {result.variant}"
    if result.auc is None or result.logloss is None:
        warn(f"{name}: no test AUC; {outcome.ended or 'the test rows have one class only'}")
        return
    note(
        f"{name}: test AUC {result.auc:.4f}, LogLoss {result.logloss:.4f}, epoch {result.best_epoch} of "
        f"{len(outcome.history)}, {result.interrupts} interrupts, batch {result.batch_size}, run {result.run_id}"
    )
    if result.positives["test"] < FEW_POSITIVES and result.auc_interval:
        low, high = result.auc_interval
        warn(
            f"{name}: {result.positives['test']} positives in the test rows; with others of their kind AUC would lie "
            f"between {low:.4f} and {high:.4f} (95 %)"
        )
    if outcome.ended:
        note(f"{name}: {outcome.ended}")
    if result.leaky:
        warn(f"{name}: leaky, the user embedding saw the test labels (evidence all)")


def _advancing(advance: Callable[[float], None]) -> Callable[[Epoch], None]:
    return lambda epoch: advance(1)


def batch_size_option(text: str) -> int:
    """An argparse type: `auto` is 0."""
    return 0 if text == "auto" else whole_number(1)(text)


def use_run(paths: Paths, arguments: argparse.Namespace) -> int:
    """`--run`: score pairs, find the best items of users, or export the network."""
    if not (arguments.predict or arguments.onnx):
        raise UserError("--run: what with it? Take --predict FILE or --onnx FILE")
    watch = Stopwatch()
    result = find_run(paths, arguments.run)
    if arguments.onnx:
        matrix = read_matrix(paths, result.task, result.variant)
        model = onnx_model(load_network(paths, result), matrix)
        with user_output(arguments.onnx, paths, "--onnx") as file:
            file.write(model)
        note(f"wrote {arguments.onnx}: {matrix.manifest['in_features']} unscaled features to a probability")
    if arguments.predict:
        if not arguments.predict.is_file():
            raise UserError(f"--predict {arguments.predict}: there is no such file")
        written = arguments.output or paths.saved / "predictions" / f"{result.run_id}-{arguments.predict.stem}.tsv"
        scorer = load_scorer(paths, result)
        if arguments.output:
            output = user_output(written, paths, "--output", reads=[arguments.predict])
        else:
            output = own_file_replaced(written)
        with output as file:
            if arguments.top:
                count, unknown = top_items(scorer, arguments.predict, arguments.top, file)
            else:
                count, unknown = score_pairs(scorer, arguments.predict, file)
        if unknown:
            warn(f"{arguments.predict}: {unknown:,} have a user or an item that no kept row has; the mean one stood in")
        closing_line(5, str(written), count, watch, unit="users" if arguments.top else "pairs")
    return 0


def main() -> int:
    options = parser(__doc__)
    add_task_options(options)
    add_variant_option(options, STUDY.all, DEFAULT_VARIANT)
    add_features_option(options)
    options.add_argument("--epochs", type=whole_number(1), default=30, help="at most so many")
    options.add_argument(
        "--batch-size",
        type=batch_size_option,
        default="auto",
        metavar="N",
        help="auto: 256 to 8192, 500 steps an epoch",
    )
    as_fits = "; none: as fits --features"
    options.add_argument("--learning-rate", type=positive_number, help=f"Adam's, in the first epochs{as_fits}")
    options.add_argument("--halve-every", type=whole_number(0), help=f"epochs; 0: the rate stays{as_fits}")
    options.add_argument(
        "--patience", type=whole_number(0), default=5, help="epochs without a better validation AUC; 0: no early stop"
    )
    options.add_argument(
        "--interrupt",
        choices=INTERRUPTS,
        help=f"when an epoch is thrown away and tried again at half the rate{as_fits}",
    )
    options.add_argument("--max-interrupts", type=whole_number(0), help=f"then the run ends; 0: none is made{as_fits}")
    options.add_argument(
        "--loss", choices=LOSSES, default="bce", help="listwise: a softmax over the batch, as published"
    )
    options.add_argument("--seed", type=seed_number, default=0, help="of the weights and the order of rows")
    options.add_argument(
        "--networks", type=whole_number(1, 1000), metavar="N", help=f"learn side by side and are averaged{as_fits}"
    )
    options.add_argument("--device", default="auto", help="auto: CUDA where there is one; cpu, cuda, cuda:1, ...")
    options.add_argument("--run", metavar="RUN_ID", help="use this run, or the last, in place of training")
    options.add_argument(
        "--predict", type=Path, metavar="FILE", help="TSV with the columns user and item, to be scored"
    )
    options.add_argument(
        "--top", type=whole_number(1), metavar="N", help="the N best items for each user of --predict's column user"
    )
    options.add_argument("--output", type=Path, metavar="FILE", help="where the scores go; none: below saved_path")
    options.add_argument("--onnx", type=Path, metavar="FILE", help="write the run's network as ONNX")
    arguments = options.parse_args()

    paths = load_paths(arguments.paths)
    if arguments.run:
        return use_run(paths, arguments)
    if arguments.predict or arguments.onnx:
        raise UserError("--predict and --onnx need --run RUN_ID: a run that results.jsonl names")
    watch = Stopwatch()
    device = local_device(choose_device(arguments.device))
    ranks = join_ranks(device)
    if ranks.world > 1 and arguments.loss == "listwise":
        raise UserError("--loss listwise: a softmax over the batch cannot be split over processes; take --loss bce")
    asked = {name: getattr(arguments, name) for name in TRAINING[arguments.features]}
    settings = TrainSettings(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        patience=arguments.patience,
        loss=arguments.loss,
        seed=arguments.seed,
        **TRAINING[arguments.features] | {name: value for name, value in asked.items() if value is not None},
    )
    tasks = chosen_tasks(paths, arguments)
    demand_room_for_results(paths)
    results = []
    for task in tasks:
        modalities = load_step_inputs(paths, task).modalities
        known = variants_for(paths, task)
        for name in chosen_variants(arguments.variant, known, known.all, modalities, task):
            variant = with_features(name, arguments.features)
            with progress(f"{task} {variant}", settings.epochs) as advance:
                on_epoch = _advancing(advance)
                marks = [settings.epochs]
                runs = run_marks(paths, task, variant, settings, marks, device, on_epoch=on_epoch, ranks=ranks)
            for result, outcome in runs:
                tell(result, outcome)
                results.append(result)
    rows = sum(result.rows["test"] for result in results)
    closing_line(5, f"{len(results)} runs to {paths.torch_model} and {paths.results}", rows, watch, unit="test rows")
    return 1 if any(result.auc is None for result in results) else 0


if __name__ == "__main__":
    run(main)
