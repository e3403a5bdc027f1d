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
from collections.abc import Callable
from pathlib import Path

import mma4ctr.runtime.environment

from mma4ctr.datasets.toml_spec import described_files
from mma4ctr.evaluation.run_records import (
    find_run,
    read_run,
)
from mma4ctr.features.feature_matrix import load_step_inputs, read_matrix
from mma4ctr.features.variants import DEFAULT_VARIANT, STUDY, chosen_variants, variants_for, with_features
from mma4ctr.model.distributed import join_process_group, local_device
from mma4ctr.model.inference import load_network, load_scorer, missing_context, score_pairs, top_items
from mma4ctr.model.onnx_export import onnx_model
from mma4ctr.model.trainer import LOSSES, SCHEDULES, Epoch, TrainSettings
from mma4ctr.model.training_defaults import EPOCHS, PATIENCE, TRAINING
from mma4ctr.runtime.console import (
    Stopwatch,
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
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_features_option, add_task_options, add_variant_option, chosen_tasks
from mma4ctr.steps.training_run import (
    choose_device,
    log_run,
    run_checkpoints,
)
from mma4ctr.storage.files import own_file_replaced
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.user_output import user_output
from mma4ctr.storage.writable import demand_room_for_results


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
        model = onnx_model(load_network(read_run(paths, result)), matrix)
        with user_output(arguments.onnx, paths, "--onnx", raw_files=described_files(paths)) as file:
            file.write(model)
        note(f"wrote {arguments.onnx}: {matrix.manifest['in_features']} unscaled features to a probability")
    if arguments.predict:
        if not arguments.predict.is_file():
            raise UserError(f"--predict {arguments.predict}: there is no such file")
        written = arguments.output or paths.saved / "predictions" / f"{result.run_id}-{arguments.predict.stem}.tsv"
        scorer = load_scorer(paths, read_run(paths, result))
        if arguments.output:
            output = user_output(
                written, paths, "--output", reads=[arguments.predict], raw_files=described_files(paths)
            )
        else:
            output = own_file_replaced(written)
        with output as file:
            if arguments.top:
                count, unknown = top_items(scorer, arguments.predict, arguments.top, file)
            else:
                count, unknown = score_pairs(scorer, arguments.predict, file)
        if lacking := missing_context(scorer, arguments.predict):
            note(f"{arguments.predict}: no column {', '.join(lacking)}; scored with the most frequent value")
        if unknown:
            warn(f"{arguments.predict}: {unknown:,} have a user or an item that no kept row has; the mean one stood in")
        closing_line(5, str(written), count, watch, unit="users" if arguments.top else "pairs")
    return 0


def main() -> int:
    options = parser(__doc__)
    add_task_options(options)
    add_variant_option(options, STUDY.all, DEFAULT_VARIANT)
    add_features_option(options)
    options.add_argument(
        "--epochs",
        type=whole_number(1),
        help=f"largest number of epochs (default: 30, or {EPOCHS['plus']} with --features plus)",
    )
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
        "--patience",
        type=whole_number(0),
        help="stop after N epochs without a better validation AUC and keep the best epoch; 0 trains all epochs and "
        "keeps the last (default: 5, or 0 with --features plus)",
    )
    options.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: halving every few epochs, or cosine down to 0 at the last epoch (default: halving, "
        "or cosine with --features plus)",
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
    processes = join_process_group(device)
    if processes.world > 1 and arguments.loss == "listwise":
        raise UserError("--loss listwise: a softmax over the batch cannot be split over processes; take --loss bce")
    asked = {name: getattr(arguments, name) for name in TRAINING[arguments.features]}
    settings = TrainSettings(
        epochs=arguments.epochs or EPOCHS[arguments.features],
        batch_size=arguments.batch_size,
        patience=PATIENCE[arguments.features] if arguments.patience is None else arguments.patience,
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
                checkpoint_epochs = [settings.epochs]
                runs = run_checkpoints(
                    paths, task, variant, settings, checkpoint_epochs, device, on_epoch=on_epoch, processes=processes
                )
            for result, outcome in runs:
                log_run(result, outcome)
                results.append(result)
    rows = sum(result.rows["test"] for result in results)
    closing_line(5, f"{len(results)} runs to {paths.torch_model} and {paths.results}", rows, watch, unit="test rows")
    return 1 if any(result.auc is None and result.test_labels for result in results) else 0


if __name__ == "__main__":
    run(main)
