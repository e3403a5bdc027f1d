"""Print the newest test result of every task, model, variant and protocol in results.jsonl.

python -m mma4ctr.evaluation --paths demo/path.json
"""

from mma4ctr.evaluation.run_records import has_predictions, newest_of_each, read_results
from mma4ctr.evaluation.run_table import result_tables
from mma4ctr.runtime.console import parser, print_table, run
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import load_paths


def main() -> None:
    """Print one table per task and protocol."""
    arguments = parser(__doc__).parse_args()
    paths = load_paths(arguments.paths)
    found = newest_of_each(read_results(paths.results), has_predictions(paths))
    if not found:
        raise UserError(f"{paths.results}: no run with predictions; run mlp.py first")
    for table in result_tables(paths, found):
        print_table(table.caption, table.header, table.texts)


if __name__ == "__main__":
    run(main)
