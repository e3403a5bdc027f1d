"""Step 3 of 8: embed each user, per modality, as the signed mean of the videos they were shown.

Reads    graph_path/<dataset>/, modal_path/<dataset>/
Writes   user_embedding_path/<task>/: <modality>.npy (blocks, users, length + 1) and block.npy, the block
         that each row uses

With x~ the modality min-max scaled per column and R_u the user's evidence, the labelled rows that the embedding may use
(docs/method.md, User embedding, after the study):

    e_u = (sum over r in R_u of s_r * x~_item(r)) / |R_u|,   s_r = +1 for label 1, -1 for label 0

Average pooling with stride 1 reduces it to `length` numbers, and the user's most frequent device is appended.

With `--evidence train`, a training row of fold f uses the training rows of the other folds only (block f), so never its
own label. Validation and test rows use all training rows (the last block). With `--evidence all`, every row uses every
label, test labels included. This is the published evaluation, and it leaks.

    python get_user_embedding.py --task wechat_click --length 21 --folds 5
"""

import numpy as np

from mma4ctr.data.interactions import (
    EVIDENCE,
    TRAIN,
    draws_of,
    draws_setting,
    features_artifact,
    has_test_labels,
    load_interactions,
)
from mma4ctr.datasets import split_task
from mma4ctr.runtime.console import Stopwatch, closing_line, note, parser, progress, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.steps.options import add_task_options, chosen_tasks
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.storage.paths import Paths, load_paths


def write_user_embedding(
    task: str, paths: Paths, *, length: int, evidence: str, folds: int, seed: int
) -> tuple[Artifact, int]:
    """Run the step for one task.

    Args:
        task: The task.
        paths: Where to read and write.
        length: Numbers per modality; 0 for no embedding.
        evidence: `train` or `all`.
        folds: Number of folds of the training rows.
        seed: Seed that draws the folds.

    Returns:
        The artifact, and the number of users.

    Raises:
        UserError: An input is missing or outdated, the training rows have one class only, or test labels are asked for
            that do not exist.
    """
    # It loads scipy, which would keep `--help` waiting.
    from mma4ctr.features.user_embedding import UserEmbedder, draw_folds

    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    modal = features_artifact(paths, dataset)
    check_made_from(modal, interactions=data.artifact)
    if evidence == "all" and not has_test_labels(data.artifact):
        raise UserError(f"{task}: --evidence all needs labels of the test rows, which the data do not have")
    label = data.label(target)
    positives = sum(int(np.count_nonzero(label[part][data.split[part] == TRAIN])) for part in data.parts())
    if positives in (0, data.training):
        raise UserError(f"{task}: every training row has label {int(positives > 0)}; there is nothing to learn")
    if evidence == "all":
        block = np.zeros(len(data), np.uint8)
    else:
        block = draw_folds(data.split, folds, seed, draws_of(data.artifact))
    modalities = modal.manifest["modalities"]
    folder = paths.user_embedding / task
    blocks = int(block.max()) + 1
    needed = len(data) + 4 * blocks * len(data.user_ids) * (length + 1) * len(modalities)
    demand_space(paths.user_embedding, needed, f"the user embedding of {task}")
    with ArtifactWriter(
        folder,
        step=3,
        made_by="get_user_embedding.py",
        settings={
            "task": task,
            "length": length,
            "evidence": evidence,
            "folds": 0 if evidence == "all" else folds,
            "seed": seed,
            **draws_setting(data.artifact),
        },
        inputs={"interactions": data.artifact.fingerprint, "modalities": modal.fingerprint},
    ) as writer:
        writer.array("block", block)
        # Length 0 means no embedding: step 4 uses the user's index instead.
        embedder = UserEmbedder(data, label, block, evidence)
        with progress(f"{task}: user embedding", len(modalities)) as advance:
            for modality in modalities if length else ():
                writer.array(modality, embedder.table(modal.array(modality), length))
                advance(1)
        writer.manifest["modalities"] = list(modalities)
        writer.manifest["blocks"] = blocks
        writer.manifest["rows"] = {"users": len(data.user_ids), "rows": len(data)}
    if evidence == "all":
        note(f"{task}: --evidence all uses test labels; its results are marked LEAKY")
    return read_artifact(folder, "get_user_embedding.py"), len(data.user_ids)


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_task_options(options)
    options.add_argument(
        "--length", type=whole_number(0, 10_000), default=21, help="numbers per modality; 0 for no embedding"
    )
    options.add_argument(
        "--evidence",
        choices=EVIDENCE,
        default="train",
        help="labelled rows that the embedding may use; all includes test labels and is marked LEAKY",
    )
    options.add_argument("--folds", type=whole_number(2, 200), default=5, help="number of folds of the training rows")
    options.add_argument("--seed", type=seed_number, default=0, help="seed that draws the folds")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    rows, written = 0, []
    for task in chosen_tasks(paths, arguments):
        _, users = write_user_embedding(
            task,
            paths,
            length=arguments.length,
            evidence=arguments.evidence,
            folds=arguments.folds,
            seed=arguments.seed,
        )
        rows += users
        written.append(task)
    closing_line(3, f"{paths.user_embedding} ({', '.join(written)})", rows, watch)


if __name__ == "__main__":
    run(main)
