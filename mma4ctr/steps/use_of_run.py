"""What step 5 does with a trained run: score pairs, find the best items of users, predict test rows, export as ONNX."""

import argparse
from pathlib import Path

from mma4ctr.datasets.toml_spec import described_files
from mma4ctr.evaluation.run_records import Result, find_run, read_run
from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.model.inference import load_network, load_scorer, matrix_of_run, missing_context, score_pairs, top_items
from mma4ctr.model.onnx_export import onnx_model
from mma4ctr.model.submission import described_split, write_submission
from mma4ctr.runtime.console import Stopwatch, closing_line, note, warn
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.files import own_file_replaced
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.user_output import user_output

# As `--predict`: the test rows of the split that the data come with. A file of this name is ./test.
TEST_ROWS = "test"


def export_network(paths: Paths, result: Result, file: Path) -> None:
    """Write the network of a run as ONNX."""
    run = read_run(paths, result)
    matrix = matrix_of_run(paths, run)
    model = onnx_model(load_network(run), matrix)
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
        warn(f"{file}: {unknown:,} have a user or item without kept rows; scored as an unknown one")
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
    if not arguments.predict and (arguments.top or arguments.output):
        raise UserError(f"--{'top' if arguments.top else 'output'} needs --predict FILE")
    result = find_run(paths, arguments.run)
    if arguments.onnx:
        export_network(paths, result, arguments.onnx)
    if arguments.predict:
        (predict_test_rows if arguments.predict == TEST_ROWS else score_file)(paths, result, arguments)
    return 0
