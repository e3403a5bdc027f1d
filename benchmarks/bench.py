"""Measure the speed and memory of each step on simulated TikTok data.

Each step is compared with a straightforward reference implementation (reference.py) and with a limit: a bare scan of
the same file, or bare matrix products of the same shapes. All are measured in the same run.

Writes   benchmarks/latest.json: a list of {step, measure, value, bar, ok}; with --growth also benchmarks/growth.png

Ratios are ratios of medians within one run, because machines differ and are noisy. The reference is measured on a part
of the data, and its rows per second are extrapolated. Memory is the largest resident size of the step's process, in MB
of 10^6 bytes.

    python -m benchmarks.bench --rows 20000000
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import mma4ctr.runtime.environment

import numpy as np
import orjson
import pyarrow as pa
import torch
from pyarrow import csv

from benchmarks import plus, reference, training_step, use, waiting
from benchmarks.measuring import Cost, Measure, command, head_of, in_process, median_seconds
from mma4ctr.data.interactions import Interactions
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.tiktok import COLUMNS, TikTok
from mma4ctr.datasets.tiktok_features import VECTOR_KEYS
from mma4ctr.evaluation.figures import COLORS, panels
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.feature_matrix import FactorMatrix, load_matrix
from mma4ctr.features.item_features import dense_features
from mma4ctr.features.user_embedding import UserEmbedder
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Adam, Network, initial_weights, torch_threads
from mma4ctr.model.trainer import ROWS_OF_A_THREAD, Learner, train_epoch
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.runtime.console import Stopwatch, note, parser, print_table, progress, run, whole_number
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.files import write_file
from mma4ctr.storage.paths import Paths, load_paths

HERE = Path(__file__).parent
TASK, VARIANT = "tiktok_like", "vat_concat"
ROWS_OF_A_USER = 435  # mean; the number of users follows from it
ITEMS = 300_000
MIN_INTERACTIONS = 300
REFERENCE_ROWS, REFERENCE_ITEMS, REFERENCE_EVIDENCE, REFERENCE_BATCHES = 300_000, 5_000, 20_000, 8
BATCHES = (512, 2048, 8192)
BATCH = BATCHES[-1]


def make_world(folder: Path, rows: int, *, features: bool) -> Cost:
    """Simulate TikTok data with the same mean number of rows per user at every size."""
    users = max(50, rows // ROWS_OF_A_USER)
    options: list[object] = ["--rows", rows, "--users", users, "--items", min(ITEMS, max(1000, rows // 4))]
    options += [] if features else ["--no-features"]
    return command("-m", "mma4ctr.simulation", folder, "--dataset", "tiktok", *options)


def bench_world(folder: Path, rows: int) -> list[Measure]:
    """Measure the simulation."""
    made = make_world(folder, rows, features=False)
    return [
        Measure("simulated world", "million rows/s, no features", rows / made.seconds / 1e6, 1),
        Measure("simulated world", "MB of memory", made.memory, 2000, at_most=True),
    ]


def interaction_file(paths: Paths) -> Path:
    """Return the interaction file."""
    return TikTok(paths.tiktok / "track1", "track1").interaction_files()[0]


def scan(path: Path) -> int:
    """Read all columns of a file with every core, the limit of step 1; returns the number of rows."""
    read = csv.ReadOptions(column_names=COLUMNS)
    parse = csv.ParseOptions(delimiter="\t", quote_char=False)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.int64()))
    rows: int = csv.read_csv(path, read, parse, convert).num_rows
    return rows


def step_1(paths: Paths) -> Cost:
    """Run step 1."""
    return command("preprocess_inter.py", "--paths", paths.file, "--min-interactions", MIN_INTERACTIONS)


def bench_step_1(paths: Paths, half: Paths, rows: int, temp: Path) -> list[Measure]:
    """Measure step 1 against a bare scan and the reference, and its memory against half the rows."""
    path = interaction_file(paths)
    bare = statistics.median(in_process(scan, path)[1].seconds for _ in range(3))
    runs = [step_1(paths) for _ in range(3)]
    seconds, memory = statistics.median(one.seconds for one in runs), max(one.memory for one in runs)
    half_memory = step_1(half).memory
    part = head_of(path, REFERENCE_ROWS, temp / "head.txt")
    reference_seconds = median_seconds(lambda: reference.keep_rows(part, 5, temp), 1) * rows / min(rows, REFERENCE_ROWS)
    return [
        Measure("1", "time, relative to a bare scan of the file", seconds / bare, 3, at_most=True),
        Measure("1", "speed, relative to the reference", reference_seconds / seconds, 30),
        Measure("1", "MB of memory", memory, 1500, at_most=True),
        Measure("1", "memory, rows doubled", memory / half_memory, 1.2, at_most=True),
    ]


def visual_features(folder: Path, temp: Path) -> tuple[float, int]:
    """Run step 2 for the visual modality of all items; returns seconds, and the bytes of the result."""
    raw = TikTok(folder, "track1")
    ids = np.unique(np.concatenate([chunk.ids for chunk in raw.read_features("visual", BadLines())]))
    watch = Stopwatch()
    chunks: Any = raw.read_features("visual", BadLines())
    features, _ = dense_features(chunks, IdIndex(ids), raw.modalities[0], 71, temp)
    return watch.seconds, features.nbytes


def bench_step_2(paths: Paths, temp: Path) -> list[Measure]:
    """Measure step 2 on the visual modality."""
    raw = TikTok(paths.tiktok / "track1", "track1")
    files = raw.feature_files("visual")
    size = sum(path.stat().st_size for path in files)
    (seconds, output), ran, before = in_process(visual_features, raw.folder, temp)
    with files[0].open() as file:
        lines = list(islice(file, REFERENCE_ITEMS))
    reference_seconds = median_seconds(lambda: reference.reduce_vectors(lines, VECTOR_KEYS["visual"], 71, 128), 1)
    rate, reference_rate = size / seconds / 1e6, sum(map(len, lines)) / reference_seconds / 1e6
    return [
        Measure("2", "MB/s of JSON, PCA included", rate, 500),
        Measure("2", "speed, relative to the reference", rate / reference_rate, 10),
        Measure("2", "MB of memory beyond the output", ran.memory - before - output / 1e6, 1000, at_most=True),
    ]


def drawn_evidence(rows: int, folds: int) -> tuple[Interactions, np.ndarray, np.ndarray, np.ndarray]:
    """Draw random interactions, labels, blocks and features."""
    rng = np.random.default_rng(0)
    users, items = max(2, rows // ROWS_OF_A_USER), max(2, rows // 60)
    data = Interactions(
        artifact=None,  # type: ignore[arg-type]
        user=np.sort(rng.integers(0, users, rows, dtype=np.int32)),
        item=rng.integers(0, items, rows, dtype=np.int32),
        device=rng.integers(0, 1000, rows),
        time=np.arange(rows),
        split=np.zeros(rows, np.uint8),
        user_ids=np.arange(users),
        item_ids=np.arange(items),
    )
    label = (rng.random(rows) < 0.1).astype(np.uint8)
    block = rng.integers(0, folds, rows, dtype=np.uint8)
    return data, label, block, rng.random((items, 128), np.float32)


def embed_drawn(rows: int) -> tuple[float, float]:
    """Run step 3 on random rows; returns seconds, and the MB of its inputs."""
    data, label, block, features = drawn_evidence(rows, 5)
    inputs = sum(array.nbytes for array in (data.user, data.item, data.device, label, block, features)) / 1e6
    watch = Stopwatch()
    UserEmbedder(data, label, block, "train").table(features, 21)
    return watch.seconds, inputs


def bench_step_3(rows: int) -> list[Measure]:
    """Measure step 3 on random rows."""
    (seconds, inputs), ran, _ = in_process(embed_drawn, rows)
    data, label, block, features = drawn_evidence(REFERENCE_EVIDENCE, 5)
    reference_seconds = median_seconds(
        lambda: reference.embed_users(data.user, data.item, label, block, features, 6), 1
    )
    return [
        Measure("3", "speed, relative to the reference", reference_seconds / REFERENCE_EVIDENCE * rows / seconds, 50),
        Measure("3", "MB of memory beyond the inputs", ran.memory - inputs, 1000, at_most=True),
    ]


def bench_step_4(paths: Paths) -> list[Measure]:
    """Measure step 4."""
    ran = command("cross_matrix.py", "--paths", paths.file, "--task", TASK)
    matrix = load_matrix(paths, TASK, VARIANT, torch.device("cpu"))
    rows = sum(len(group) for group in (matrix.train, matrix.valid, matrix.test))
    written = rows * matrix.in_features * 4 / 1e6
    return [
        Measure("4", "seconds", ran.seconds, 10, at_most=True),
        Measure("4", "memory, relative to the matrix of all rows", ran.memory / written, 0.5, at_most=True),
    ]


def training_rates(matrix: FactorMatrix, batch: int) -> tuple[float, float]:
    """Measure training with the threads that step 5 uses; returns rows a second, and their share of bare products'."""
    settings = TrainSettings(batch_size=batch)
    network = Network(initial_weights(matrix.in_features, 0.1, 0))
    learner = Learner(network, Adam(network.parameters))
    few = shortened(matrix, 40 * BATCH)
    products = training_step.bare_products(batch, matrix.in_features)
    ours, limit = [], []
    with torch_threads(batch // ROWS_OF_A_THREAD), torch.no_grad():
        products()
        for turn in range(7):  # alternate, so that both have the same noise
            watch = Stopwatch()
            train_epoch(learner, few, settings, turn)
            ours.append(len(few.train) / watch.seconds)
            watch = Stopwatch()
            for _ in range(len(few.train) // batch):
                products()
            limit.append(len(few.train) // batch * batch / watch.seconds)
    return statistics.median(ours), statistics.median(a / b for a, b in zip(ours, limit, strict=True))


def bench_step_5(paths: Paths) -> list[Measure]:
    """Measure training against bare products and a DataLoader, and prediction against training."""
    matrix = load_matrix(paths, TASK, VARIANT, torch.device("cpu"))
    rates = {batch: training_rates(matrix, batch) for batch in BATCHES}
    network = Network(initial_weights(matrix.in_features, 0.1, 0))
    model = reference.mlp_module(network.state())
    rows = REFERENCE_BATCHES * BATCH
    train = matrix.train
    arrays = [values[:rows].numpy() for values in (train.user_row, train.item_row, train.label.float())]
    dataset = reference.RowDataset(matrix.user_part.numpy(), matrix.item_part.numpy(), *arrays)
    reference_rate = len(dataset) / median_seconds(lambda: reference.train_epoch(dataset, model, BATCH), 1)
    test = len(matrix.test) / median_seconds(lambda: predict(network, matrix, matrix.test), 5)
    slowest = max(ratio for *_, ratio in training_step.measured(turns=9))
    shares = [
        Measure("5", f"rows/s at batch {batch:,}, relative to bare products", share, 0.8)
        for batch, (_, share) in rates.items()
    ]
    return [
        *shares,
        Measure("5", "speed, relative to a DataLoader", rates[BATCH][0] / reference_rate, 7),
        Measure("5", "a step, relative to nn.Module with fused Adam", slowest, 0.75, at_most=True),
        Measure("5", "test rows/s, relative to training", test / rates[BATCH][0], 5),
    ]


def shortened(matrix: FactorMatrix, rows: int) -> FactorMatrix:
    """Return the matrix with fewer training rows."""
    train = matrix.train
    cut = type(train)(*(getattr(train, name)[:rows] for name in ("rows", "user_row", "item_row", "label")))
    return FactorMatrix(
        matrix.user_part, matrix.item_part, cut, matrix.valid, matrix.test, matrix.settings, matrix.fingerprint
    )


def steps_after_1(paths: Paths, *more: object) -> dict[str, Cost]:
    """Run steps 2 to 5 of the task."""
    given = ("--paths", paths.file, "--task", TASK)
    return {
        "2": command("preprocess_multimodal.py", "--paths", paths.file),
        "3": command("get_user_embedding.py", *given),
        "4": command("cross_matrix.py", *given),
        "5": command("mlp.py", *given, *more),
    }


def bench_all(paths: Paths) -> list[Measure]:
    """Measure steps 1 to 5 with their defaults."""
    ran = [step_1(paths), *steps_after_1(paths).values()]
    return [
        Measure("1 to 5", "minutes, defaults", sum(one.seconds for one in ran) / 60, 10, at_most=True),
        Measure("1 to 5", "MB of memory", max(one.memory for one in ran), 6000, at_most=True),
    ]


def link_features(source: Paths, target: Paths) -> None:
    """Link the feature files of one simulation into another with the same items."""
    for path in (source.tiktok / "track1").glob("track1_*"):
        (target.tiktok / "track1" / path.name).symlink_to(path)


def grow(folder: Path, largest: Paths, sizes: Sequence[int]) -> dict[str, list[tuple[int, Cost]]]:
    """Measure each step, and one epoch of step 5, at several sizes."""
    found: dict[str, list[tuple[int, Cost]]] = {name: [] for name in "12345"}
    with progress("growth", len(sizes)) as advance:
        for rows in sizes:
            where = folder / f"grow{rows}"
            make_world(where, rows, features=False)
            paths = load_paths(where / "path.json")
            link_features(largest, paths)
            steps = {"1": step_1(paths), **steps_after_1(paths, "--epochs", 1, "--batch-size", BATCH)}
            seconds = read_results(paths.results)[-1].train_seconds
            steps["5"] = Cost(seconds, steps["5"].memory)
            for name, ran in steps.items():
                found[name].append((rows, ran))
            advance(1)
    return found


def draw_growth(found: dict[str, list[tuple[int, Cost]]]) -> Path:
    """Draw seconds and memory by size; returns the file."""
    names = {"1": "step 1", "2": "step 2", "3": "step 3", "4": "step 4", "5": "step 5, an epoch"}
    with panels(2, width=4.4, height=3.6) as (figure, axes):
        for axis, unit in zip(axes, ("seconds", "memory"), strict=True):
            for color, (name, points) in zip(COLORS, found.items(), strict=False):
                rows = [size / 1e6 for size, _ in points]
                axis.plot(rows, [getattr(ran, unit) for _, ran in points], marker="o", color=color, label=names[name])
            axis.set(xscale="log", yscale="log", xlabel="million raw rows")
            axis.set_ylabel("seconds" if unit == "seconds" else "largest memory (MB)")
        axes[0].legend()
        path = HERE / "growth.png"
        figure.savefig(path, dpi=150)
    return path


def main() -> int:
    """Run the benchmark; returns 1 if a bar is not met."""
    options = parser(__doc__, paths=False)
    options.add_argument(
        "--rows", type=whole_number(100_000), default=20_000_000, help="raw rows of the simulated data"
    )
    options.add_argument(
        "--evidence", type=whole_number(100_000), default=10_000_000, help="rows of the measurement of step 3"
    )
    options.add_argument("--growth", action="store_true", help="measure smaller sizes too and draw growth.png")
    options.add_argument("--folder", type=Path, help="parent of the temporary data folder (default: the system's)")
    arguments = options.parse_args()

    watch = Stopwatch()
    rows = arguments.rows
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder) as name:
        folder = Path(name)
        measures = bench_world(folder / "half", rows // 2)
        make_world(folder / "all", rows, features=True)
        paths, half = load_paths(folder / "all/path.json"), load_paths(folder / "half/path.json")
        stages: list[Callable[[], list[Measure]]] = [
            lambda: bench_step_1(paths, half, rows, folder),
            lambda: bench_step_2(paths, folder),
            lambda: bench_step_3(arguments.evidence),
            lambda: bench_all(paths),
            lambda: use.bench_predict(paths, folder),
            lambda: bench_step_4(paths),
            lambda: bench_step_5(paths),
            lambda: plus.bench_steps(paths, TASK),
            lambda: use.bench_predict(paths, folder, " of features plus, with context columns"),
            lambda: plus.bench_kuairand(folder),
            lambda: [one.measure for one in waiting.measured()],
            use.bench_start_up,
        ]
        with progress("measuring", len(stages)) as advance:
            for stage in stages:
                measures += stage()
                advance(1)
        if arguments.growth:
            sizes = [size for size in (rows // 20, rows // 10, rows // 4, rows // 2, rows) if size >= 10_000]
            found = grow(folder, paths, sizes)
            shown = [
                [name, *(f"{ran.seconds:.1f} s, {ran.memory:,.0f} MB" for _, ran in points)]
                for name, points in found.items()
            ]
            print_table("Growth", ["step", *(f"{size / 1e6:g} M rows" for size in sizes)], shown)
            note(f"wrote {draw_growth(found)}")
    lines = [asdict(measure) | {"ok": measure.ok} for measure in measures]
    write_file(HERE / "latest.json", orjson.dumps(lines, option=orjson.OPT_INDENT_2) + b"\n")
    table = [
        [one.step, one.measure, f"{one.value:,.2f}", one.bar_text, "yes" if one.ok else "NO"]
        for one in sorted(measures, key=lambda one: (not one.step[0].isdigit(), one.step))
    ]
    print_table(f"{rows / 1e6:g} million rows", ["step", "measure", "value", "bar", "met"], table)
    note(f"wrote {HERE / 'latest.json'}, {watch.seconds:.0f} s")
    return 0 if all(one.ok for one in measures) else 1


if __name__ == "__main__":
    run(main)
