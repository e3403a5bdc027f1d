"""The comparison: the models that MMa4CTR is held against, on exactly its rows, and their tables.

Reads    graph_path/<dataset>/ with its .inter files; for models with features also matrix_path/<task>/<variant>/
Writes   lines in saved_path/results.jsonl, the test rows' scores in torch_model_path/<task>/<run id>/,
         saved_path/tables/comparison.{md,csv}, comparison-by-epoch.{md,csv}

Every model scores every validation and test row, in the rows' order; AUC, GAUC and LogLoss come from the function
that mlp.py uses. Its rivals get the columns that MMa4CTR has: LightGBM and CatBoost every stored column, with
and without features plus, LightGBM also rates; DIN, DIEN and DCN-V2 the columns as fields.

RecBole's models run in the environment that `make baseline` makes (recbole_model.py), FuxiCTR's in that of
`make baseline-fuxictr` (fuxictr_model.py), each training in a process of its own; FuxiCTR's take data sets of BARS only
and must be named. LightGBM, CatBoost and the bias model run in this environment (own_model.py). MMa4CTR is trained by
adjust_hyperparameter.py, which is started for it. A run of 10 epochs is the beginning of one of 30, so results at
several numbers of epochs are one training; FuxiCTR's models stop early and give one result. A run that stands in
results.jsonl already, made from the same inputs, is not repeated.

    python baseline/comp.py --task tiktok_like --models BPR DIN LightGBM --epochs 10 20 30 50 --seeds 3

The parts: trainings.py says what is trained, schedule.py in which order, processes.py starts it and judges the scores.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mma4ctr.evaluation.baselines import BASELINES, FUXICTR, OWN, Baseline
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import COMPARISON, COMPARISON_BY_EPOCH, MODEL, STUDIES
from mma4ctr.runtime.console import (
    Stopwatch,
    note,
    parser,
    print_table,
    run,
    unknown_name,
    whole_number,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import cores
from mma4ctr.runtime.signals import FOLLOW
from mma4ctr.steps.options import add_runs_options, add_task_options, chosen_tasks
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.writable import demand_room_for_results


def train_ours(paths: Paths, tasks: Sequence[str], seeds: int, jobs: int) -> int:
    """Train MMa4CTR by the sweep.

    Args:
        paths: Where to read and write.
        tasks: The tasks.
        seeds: Number of seeds.
        jobs: Trainings at a time.

    Returns:
        The exit code of the sweep.
    """
    script = Path(__file__).parents[1] / "adjust_hyperparameter.py"
    command = [sys.executable, str(script), "--paths", str(paths.file)]
    command += ["--study", COMPARISON, COMPARISON_BY_EPOCH, "--task", *tasks]
    command += ["--seeds", str(seeds), "--jobs", str(jobs)]
    with subprocess.Popen(command, env=os.environ | {FOLLOW: "1"}) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def chosen_models(names: Sequence[str]) -> list[str]:
    """The models that the command line names.

    Args:
        names: Names of models, or `all` for those that take every data set.

    Returns:
        Names of models, each once.

    Raises:
        UserError: If a name is unknown; the message lists those there are.
    """
    known = (MODEL, *BASELINES)
    for name in names:
        if name not in ("all", *known):
            raise unknown_name("model", name, ("all", *known))
    general = [name for name in known if name == MODEL or BASELINES[name].framework != FUXICTR]
    return list(dict.fromkeys(one for name in names for one in (general if name == "all" else [name])))


def refuse_missing_environments(models: Sequence[Baseline]) -> None:
    """Raise `UserError` if the environment of a model's framework is not there."""
    from processes import PLACES

    for framework, place in PLACES.items():
        needed = any(model.framework == framework for model in models)
        if needed and place.environment and not (place.environment / "bin/python").exists():
            others = [MODEL, *(model.name for model in BASELINES.values() if model.framework == OWN)]
            raise UserError(
                f"{place.environment}: {framework}'s environment is not there; `{place.command}` makes it, or name "
                f"models that do without it: --models {' '.join(others)}"
            )


def main() -> int:
    """Do the comparison; returns 1 if a training failed."""
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
        help="numbers of epochs after which the other models are tested; MMa4CTR has its own",
    )
    add_runs_options(options, "model", seeds=1)
    arguments = options.parse_args()

    # These load torch, which would keep `--help` waiting.
    import torch
    from schedule import expected_seconds, plan, train_all
    from trainings import prepare

    from mma4ctr.evaluation.comparison_tables import comparison_layout
    from mma4ctr.evaluation.tables import study_tables, write_tables

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    models = chosen_models(arguments.models)
    tasks = chosen_tasks(paths, arguments)
    others = [BASELINES[name] for name in models if name != MODEL]
    refuse_missing_environments(others)
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
    asked = replace(STUDIES[COMPARISON], epochs=tuple(sorted(set(arguments.epochs))), more_epochs=())
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
