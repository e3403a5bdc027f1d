"""Reads a sample of the data sets that a path.json describes, and tells what was understood and every mistake.

    python -m mma4ctr.datasets check path.json

Nothing is written. Mistakes are lines on standard error, each with its file and column; the exit code is then 2.
"""

from pathlib import Path

from mma4ctr.datasets.toml_spec import read_description
from mma4ctr.datasets.validate import check_dataset
from mma4ctr.runtime.console import note, parser, print_error, print_table, run, warn, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import load_paths


def main() -> int:
    options = parser(__doc__, paths=False)
    options.add_argument("command", choices=("check",), help="the only one")
    options.add_argument("paths", type=Path, nargs="?", default="path.json", help="the path.json to use")
    options.add_argument("--rows", type=whole_number(1), default=200_000, help="interactions to look at, at most")
    arguments = options.parse_args()

    paths = load_paths(arguments.paths)
    if not paths.described:
        raise UserError(f"{paths.file}: describes no data set; add a key 'datasets', see the README's Your data")
    mistakes = 0
    for name in paths.described:
        description, problems = read_description(name, paths)
        if description is not None:
            found = check_dataset(description, arguments.rows)
            problems = found.mistakes
            print_table(f"{name} ({description.where})", ["", "what was understood"], found.rows)
            for text in found.warnings:
                warn(text)
        for problem in problems:
            print_error(problem)
        mistakes += len(problems)
    note(f"{mistakes} mistake{'s' if mistakes != 1 else ''} in {', '.join(paths.described)} of {paths.file}")
    return 2 if mistakes else 0


if __name__ == "__main__":
    run(main)
