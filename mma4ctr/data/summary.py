"""The summary that step 1 prints, and the check for targets of one class."""

from collections.abc import Mapping
from typing import Any

from mma4ctr.datasets.base import RawDataset
from mma4ctr.runtime.console import note, warn
from mma4ctr.runtime.errors import UserError


def refuse_one_class(raw: RawDataset, positives: dict[str, int], rows: int) -> None:
    """Raise `UserError` if a rule of the description gives all rows with a label the same one."""
    for target, rule in raw.rules.items():
        if positives[target] in (0, rows):
            hint = ", or add negatives = 5" if positives[target] else ""
            raise UserError(
                f"{raw.name}_{target}: the rule '{rule}' labels every kept row {int(positives[target] > 0)}, so "
                f"there is nothing to learn; correct the rule{hint} in the description"
            )


def labelled_rows(manifest: Mapping[str, Any]) -> int:
    """Number of kept rows with labels; test rows may have none."""
    rows = manifest["rows"]
    return int(rows["kept"] - (0 if manifest.get("test_labels", True) else rows["test"]))


def describe(raw: RawDataset, manifest: dict) -> None:
    """Print the numbers of kept and dropped rows, and warn of targets of one class."""
    rows = manifest["rows"]
    skipped = f"{rows['skipped']:,} bad line{'s' if rows['skipped'] > 1 else ''} skipped; " if rows["skipped"] else ""
    note(
        f"{raw.name}: kept {rows['kept']:,} of {rows['raw']:,} rows, {rows['users']:,} users, {rows['items']:,} items; "
        f"{rows['duplicates']:,} duplicates or rows of unknown items dropped; {skipped}"
        f"train {rows['train']:,}, valid {rows['valid']:,}, test {rows['test']:,}"
    )
    if history := manifest.get("history"):
        note(
            f"{raw.name}: features plus use the histories of the first rows of {history['users']:,} users, "
            f"{history['pairs']:,} items; {history['unknown']:,} listed items without rows are left out"
        )
        if not history["pairs"] and history["unknown"]:
            warn(f"{raw.name}: no item of a history has a row; check history and history_separator in the description")
    if raw.negatives:
        seen = rows["kept"] - rows["drawn"]
        fewer = "; users with rows of nearly all items got fewer" if rows["drawn"] < seen * raw.negatives else ""
        note(f"{raw.name}: {seen:,} rows are from the log, {rows['drawn']:,} were drawn from unseen items{fewer}")
    shares = []
    labelled = labelled_rows(manifest)
    for target, positives in manifest["positives"].items():
        if positives in (0, labelled):
            warn(f"{raw.name}_{target}: all labels are {int(positives > 0)}; there is nothing to learn")
        else:
            shares.append(f"{target} {(labelled - positives) / positives:.2f}")
    if labelled < rows["kept"]:
        note(f"{raw.name}: the test rows have no labels, so they can be predicted and not scored")
    note(f"{raw.name}: negatives per positive: {', '.join(shares)}")
