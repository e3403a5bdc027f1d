"""The statistics of the data sets that step 1 has prepared."""

from mma4ctr.data.summary import labelled_rows
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.storage.artifacts import Artifact


def statistics_layout(artifacts: dict[str, Artifact]) -> Layout:
    """The table of statistics, with a column per data set.

    Args:
        artifacts: The interactions by name of the data set.
    """
    rows = []
    for key in ("raw", "kept", "duplicates", "users", "items", "train", "valid", "test"):
        rows.append([key, *(f"{artifact.manifest['rows'][key]:,}" for artifact in artifacts.values())])
    density = [
        artifact.manifest["rows"]["kept"] / (artifact.manifest["rows"]["users"] * artifact.manifest["rows"]["items"])
        for artifact in artifacts.values()
    ]
    rows.append(["kept rows per user and item", *(f"{value:.4%}" for value in density)])
    rows.append(["split", *(str(artifact.settings["split"]) for artifact in artifacts.values())])
    targets = {t: None for artifact in artifacts.values() for t in artifact.manifest["positives"]}
    for target in targets:
        ratios = [negatives_per_positive(artifact).get(target) for artifact in artifacts.values()]
        rows.append([f"negatives per positive: {target}", *("-" if r is None else f"{r:.2f}" for r in ratios)])
    return Layout("Data after step 1.", ["", *artifacts], [[(cell, False) for cell in row] for row in rows])


def negatives_per_positive(artifact: Artifact) -> dict[str, float]:
    """Negatives per positive of every target that has both labels."""
    rows = labelled_rows(artifact.manifest)
    positives: dict[str, int] = artifact.manifest["positives"]
    return {target: (rows - count) / count for target, count in positives.items() if 0 < count < rows}
