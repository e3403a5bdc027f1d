"""Step 5 of 8: train the MLP on a feature matrix, predict the test rows and record the run.

Reads    graph_path/<dataset>/, user_embedding_path/<task>/, matrix_path/<task>/<variant>/
Writes   torch_model_path/<task>/<run id>/: model.safetensors, history.json, and for the test rows predictions.npy,
         hidden.npy (the 4 outputs of each network's last hidden layer) and rows.npy;
         one line in saved_path/results.jsonl

    Linear(in,128) Tanh Linear(128,32) Tanh Linear(32,4) Tanh Linear(4,1) Sigmoid

is trained on logits: with features paper one network with Adam, whose learning rate halves every few epochs, until
validation AUC no longer improves; with features plus three networks with AdamW on a cosine schedule, whose mean logit
is the prediction. If an epoch ends with a validation AUC of 0.5 or less, or with a loss that is not finite, it is
undone and repeated with half the rate (the validation interrupt). Test rows are used once, at the end.

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
from typing import TYPE_CHECKING

from mma4ctr.evaluation.run_records import Result
from mma4ctr.features.variants import DEFAULT_VARIANT, STUDY, chosen_variants, variants_for, with_features
from mma4ctr.runtime.console import Stopwatch, closing_line, parser, progress, run, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_features_option, add_task_options, add_variant_option, chosen_tasks
from mma4ctr.steps.training_options import add_training_options, training_settings
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.writable import demand_room_for_results

if TYPE_CHECKING:
    import torch

    from mma4ctr.model.distributed import ProcessGroup
    from mma4ctr.model.trainer import Epoch


# Options that use a trained run.
OF_A_RUN = ("predict", "top", "output", "onnx")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    options = parser(__doc__)
    add_task_options(options)
    add_variant_option(options, STUDY.all, DEFAULT_VARIANT)
    add_features_option(options)
    add_training_options(options)
    add = options.add_argument
    add("--run", metavar="RUN_ID", help="use this run, or the last, instead of training")
    add(
        "--predict",
        metavar="FILE",
        help="score this TSV with the columns user and item; test: the test rows of data that come with a split",
    )
    add("--top", type=whole_number(1), metavar="N", help="find the N best items for each user of --predict")
    add("--output", type=Path, metavar="FILE", help="file for the scores (default: a file in saved_path/predictions/)")
    add("--onnx", type=Path, metavar="FILE", help="write the network of the run as ONNX")
    arguments = options.parse_args()
    for name, default in vars(options.parse_args([])).items() if arguments.run else ():
        if name not in ("paths", "run", *OF_A_RUN) and getattr(arguments, name) != default:
            raise UserError(f"--{name.replace('_', '-')}: is for a training, and has no effect on --run; leave it out")
    return arguments


def train_tasks(
    paths: Paths, arguments: argparse.Namespace, device: "torch.device", processes: "ProcessGroup"
) -> list[Result]:
    """Train, test and record a run for each chosen task and variant."""
    from mma4ctr.data.interactions import TRAIN
    from mma4ctr.features.feature_matrix import load_step_inputs
    from mma4ctr.steps.training_run import Training, log_run, run_checkpoints

    tasks = chosen_tasks(paths, arguments)
    demand_room_for_results(paths)
    results = []
    for task in tasks:
        inputs = load_step_inputs(paths, task)
        modalities = inputs.modalities
        settings = training_settings(arguments, inputs.data.rows_of(TRAIN))
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


def _advance(advance: Callable[[float], None], epoch: "Epoch") -> None:
    advance(1)


def main() -> int:
    """Run the command; returns exit code 1 if a run has no weights, or no test AUC with labelled test rows."""
    arguments = read_options()

    # They load torch, which would keep `--help` waiting.
    from mma4ctr.model.distributed import join_process_group, local_device
    from mma4ctr.steps.training_run import choose_device
    from mma4ctr.steps.use_of_run import use_run

    paths = load_paths(arguments.paths)
    if arguments.run:
        return use_run(paths, arguments)
    if named := [name for name in OF_A_RUN if getattr(arguments, name) is not None]:
        raise UserError(f"--{named[0]} needs --run RUN_ID: a run of results.jsonl")
    watch = Stopwatch()
    device = local_device(choose_device(arguments.device))
    processes = join_process_group(device)
    if processes.world > 1 and arguments.loss == "listwise":
        raise UserError("--loss listwise: a softmax over the batch cannot be split over processes; use --loss bce")
    results = train_tasks(paths, arguments, device, processes)
    rows = sum(result.rows["test"] for result in results)
    closing_line(5, f"{len(results)} runs to {paths.torch_model} and {paths.results}", rows, watch, unit="test rows")
    return 1 if any(not result.best_epoch or (result.auc is None and result.test_labels) for result in results) else 0


if __name__ == "__main__":
    run(main)
