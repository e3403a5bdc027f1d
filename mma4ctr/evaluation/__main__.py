"""Prints the newest test result of every task, model and variant that results.jsonl has.

python -m mma4ctr.evaluation --paths demo/path.json
"""

from mma4ctr.evaluation.run_records import keeps_predictions, newest_of_each, read_results, results_rows
from mma4ctr.runtime.console import parser, print_table, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import load_paths


def main() -> None:
    arguments = parser(__doc__).parse_args()
    paths = load_paths(arguments.paths)
    found = newest_of_each(read_results(paths.results), keeps_predictions(paths))
    if not found:
        raise UserError(f"{paths.results}: holds no run with its predictions; run mlp.py first")
    print_table("Test results", *results_rows(paths, found))


if __name__ == "__main__":
    run(main)
