"""Step 5 of 8: train the MLP on a feature matrix, predict the test rows and record the run.

Reads    graph_path/<dataset>/, user_embedding_path/<task>/, matrix_path/<task>/<variant>/
Writes   torch_model_path/<task>/<run id>/: model.safetensors, history.json, and for the test rows predictions.npy,
         hidden.npy (the 4 outputs of the last hidden layer) and rows.npy; one line in saved_path/results.jsonl

    Linear(in,128) Tanh Linear(128,32) Tanh Linear(32,4) Tanh Linear(4,1) Sigmoid

is trained with Adam on logits. The learning rate halves every few epochs. If an epoch ends with a validation AUC of 0.5
or less, or with a loss that is not finite, it is undone and repeated with half the rate (the validation interrupt).
Training ends early when validation AUC no longer improves. Test rows are used once, at the end.

    python mlp.py --task wechat_click --variant vat_concat --epochs 30

A trained run scores the pairs of users and items in a TSV, finds the best items for the users in a TSV, or predicts the
test rows of a log that comes with a split, for a submission to a challenge:

    python mlp.py --run 3f2a90c1d7be --predict pairs.tsv
    python mlp.py --run last --predict users.tsv --top 10
    python mlp.py --run last --predict test
    python mlp.py --run last --onnx model.onnx

Several processes that torchrun starts train together, each on its share of every batch:

    torchrun --nproc-per-node 2 mlp.py --task wechat_click
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mma4ctr.runtime.environment

import torch

from mma4ctr.datasets.toml_spec import described_files
from mma4ctr.evaluation.run_records import Result, find_run, read_run
from mma4ctr.features.feature_matrix import load_step_inputs, read_matrix
from mma4ctr.features.variants import DEFAULT_VARIANT, STUDY, chosen_variants, variants_for, with_features
from mma4ctr.model.distributed import ProcessGroup, join_process_group, local_device
from mma4ctr.model.inference import load_network, load_scorer, missing_context, score_pairs, top_items
from mma4ctr.model.onnx_export import onnx_model
from mma4ctr.model.submission import described_split, write_submission
from mma4ctr.model.trainer import Epoch
from mma4ctr.runtime.console import (
    Stopwatch,
    closing_line,
    note,
    parser,
    progress,
    run,
    warn,
    whole_number,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import (
    add_features_option,
    add_task_options,
    add_variant_option,
    chosen_tasks,
)
from mma4ctr.steps.training_options import add_training_options, training_settings
from mma4ctr.steps.training_run import Training, choose_device, log_run, run_checkpoints
from mma4ctr.storage.files import own_file_replaced
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.user_output import user_output
from mma4ctr.storage.writable import demand_room_for_results

# As `--predict`: the test rows of the split that the data come with. A file of this name is ./test.
TEST_ROWS = "test"


def export_network(paths: Paths, result: Result, file: Path) -> None:
    """Write the network of a run as ONNX."""
    matrix = read_matrix(paths, result.task, result.variant)
    model = onnx_model(load_network(read_run(paths, result)), matrix)
    with user_output(file, paths, "--onnx", raw_files=described_files(paths)) as output:
        output.write(model)
    note(f"wrote {file}: {matrix.manifest['in_features']} unscaled features to a probability")


def score_file(paths: Paths, result: Result, arguments: argparse.Namespace) -> None:
    """Score the pairs of `--predict`, or find the best items for its users, with a run."""
    watch = Stopwatch()
    file = Path(arguments.predict)
    if not file.is_file():
        raise UserError(f"--predict {arguments.predict}: file not found")
    written = arguments.output or paths.saved / "predictions" / f"{result.run_id}-{file.stem}.tsv"
    scorer = load_scorer(paths, read_run(paths, result))
    if arguments.output:
        output = user_output(written, paths, "--output", reads=[file], raw_files=described_files(paths))
    else:
        output = own_file_replaced(written)
    with output as opened:
        if arguments.top:
            count, unknown = top_items(scorer, file, arguments.top, opened)
        else:
            count, unknown = score_pairs(scorer, file, opened)
    if lacking := missing_context(scorer, file):
        note(f"{file}: no column {', '.join(lacking)}; scored with the most frequent value")
    if unknown:
        warn(f"{file}: {unknown:,} have a user or item without kept rows; scored with the mean user or item")
    closing_line(5, str(written), count, watch, unit="users" if arguments.top else "pairs")


def predict_test_rows(paths: Paths, result: Result, arguments: argparse.Namespace) -> None:
    """Write the submission of a run: the id and the probability of every test row."""
    watch = Stopwatch()
    if arguments.top:
        raise UserError("--top: needs a file of users; --predict test scores the test rows")
    raw = described_split(paths, result.task)
    scorer = load_scorer(paths, read_run(paths, result))
    written = arguments.output or paths.saved / "predictions" / f"{result.run_id}-test.csv"
    if arguments.output:
        output = user_output(written, paths, "--output", raw_files=described_files(paths))
    else:
        output = own_file_replaced(written)
    with output as opened:
        counts = write_submission(scorer, load_step_inputs(paths, result.task).data, raw, opened)
    new = f"{counts.new_users:,} test rows have a user without training rows, {counts.new_items:,} an item without"
    note(f"{result.task}: {new}")
    if counts.repeated:
        warn(f"{written}: {counts.repeated:,} rows have the id of an earlier row; a challenge may refuse them")
    closing_line(5, str(written), counts.rows, watch, unit="test rows")


def use_run(paths: Paths, arguments: argparse.Namespace) -> int:
    """Score, rank or export with the run of `--run`."""
    if not (arguments.predict or arguments.onnx):
        raise UserError("--run needs --predict FILE or --onnx FILE")
    result = find_run(paths, arguments.run)
    if arguments.onnx:
        export_network(paths, result, arguments.onnx)
    if arguments.predict:
        (predict_test_rows if arguments.predict == TEST_ROWS else score_file)(paths, result, arguments)
    return 0


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    options = parser(__doc__)
    add_task_options(options)
    add_variant_option(options, STUDY.all, DEFAULT_VARIANT)
    add_features_option(options)
    add_training_options(options)
    add = options.add_argument
    add("--run", metavar="RUN_ID", help="use this run, or the last, instead of training")
    add("--predict", metavar="FILE", help="score this TSV with the columns user and item; test: the given test rows")
    add("--top", type=whole_number(1), metavar="N", help="find the N best items for each user of --predict")
    add("--output", type=Path, metavar="FILE", help="file for the scores (default: a file in saved_path/predictions/)")
    add("--onnx", type=Path, metavar="FILE", help="write the network of the run as ONNX")
    return options.parse_args()


def train_tasks(
    paths: Paths, arguments: argparse.Namespace, device: torch.device, processes: ProcessGroup
) -> list[Result]:
    """Train, test and record a run for each chosen task and variant."""
    settings = training_settings(arguments)
    tasks = chosen_tasks(paths, arguments)
    demand_room_for_results(paths)
    results = []
    for task in tasks:
        modalities = load_step_inputs(paths, task).modalities
        known = variants_for(paths, task)
        for name in chosen_variants(arguments.variant, known, known.all, modalities, task):
            training = Training(task, with_features(name, arguments.features), settings, [settings.epochs])
            with progress(f"{task} {training.variant}", settings.epochs) as advance:
                runs = run_checkpoints(
                    paths, training, device, on_epoch=partial(_advance, advance), processes=processes
                )
            for result, outcome in runs:
                log_run(result, outcome)
                results.append(result)
    return results


def _advance(advance: Callable[[float], None], epoch: Epoch) -> None:
    advance(1)


def main() -> int:
    """Run the command; returns exit code 1 if a run has no test AUC."""
    arguments = read_options()
    paths = load_paths(arguments.paths)
    if arguments.run:
        return use_run(paths, arguments)
    if arguments.predict or arguments.onnx:
        raise UserError("--predict and --onnx need --run RUN_ID: a run of results.jsonl")
    watch = Stopwatch()
    device = local_device(choose_device(arguments.device))
    processes = join_process_group(device)
    if processes.world > 1 and arguments.loss == "listwise":
        raise UserError("--loss listwise: a softmax over the batch cannot be split over processes; use --loss bce")
    results = train_tasks(paths, arguments, device, processes)
    rows = sum(result.rows["test"] for result in results)
    closing_line(5, f"{len(results)} runs to {paths.torch_model} and {paths.results}", rows, watch, unit="test rows")
    return 1 if any(result.auc is None and result.test_labels for result in results) else 0


if __name__ == "__main__":
    run(main)
