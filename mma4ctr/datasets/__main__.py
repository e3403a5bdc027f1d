"""Check the data sets that a path.json describes on a sample of their files.

    python -m mma4ctr.datasets check path.json

Prints the meaning of each column, and every mistake as one line on standard error with its file and column; the exit
code is then 2. Nothing is written.
"""

from pathlib import Path

from mma4ctr.datasets.toml_spec import read_description
from mma4ctr.datasets.validate import check_dataset
from mma4ctr.runtime.console import note, parser, print_error, print_table, run, warn, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import load_paths


def main() -> int:
    """Run the command and return its exit code."""
    options = parser(__doc__, paths=False)
    options.add_argument("command", choices=("check",), help="check the described data sets")
    options.add_argument("paths", type=Path, nargs="?", default="path.json", help="path.json with the descriptions")
    options.add_argument("--rows", type=whole_number(1), default=200_000, help="maximum number of interactions to read")
    arguments = options.parse_args()

    paths = load_paths(arguments.paths)
    if not paths.described:
        raise UserError(f"{paths.file}: describes no data set; add the key 'datasets', see docs/your-data.md")
    count = 0
    for name in paths.described:
        description, mistakes = read_description(name, paths)
        if description is not None:
            report = check_dataset(description, arguments.rows)
            mistakes = report.mistakes
            print_table(f"{name} ({description.where})", ["", "meaning"], report.rows)
            for text in report.warnings:
                warn(text)
        for mistake in mistakes:
            print_error(mistake)
        count += len(mistakes)
    note(f"{count} mistake{'s' if count != 1 else ''} in {', '.join(paths.described)} of {paths.file}")
    return 2 if count else 0


if __name__ == "__main__":
    run(main)
