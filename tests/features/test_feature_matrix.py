"""Step 4: concat and cross against loops, scaling on the training rows, published widths, the gather."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cross_matrix
import gen_matrix
import get_user_embedding
import mma4ctr
from mma4ctr.data.interactions import TRAIN, load_interactions
from mma4ctr.features.feature_matrix import check_table_rows, load_matrix, load_step_inputs, rows_in_blocks
from mma4ctr.features.reduction import concat, cross
from mma4ctr.features.scaling import fit_scaling
from mma4ctr.features.variants import CONCAT, CROSS, SINGLE
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import read_artifact
from tests.conftest import call

PUBLISHED = json.loads((Path(mma4ctr.__file__).parent / "evaluation/published.json").read_bytes())["tasks"]
TASKS = ("wechat_click", "tiktok_like", "tiktok_finish")


def test_concat_of_narrow_modalities_equals_a_loop():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((9, width)).astype(np.float32) for width in (4, 2, 3)]
    expected = [[*a, *b, *c] for a, b, c in zip(*(part.tolist() for part in parts), strict=True)]
    assert concat(parts).tolist() == expected


def test_concat_of_wide_modalities_keeps_at_most_128():
    rng = np.random.default_rng(0)
    assert concat([rng.standard_normal((300, 200)), rng.standard_normal((300, 5))]).shape == (300, 128)


def test_cross_equals_a_loop():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((9, 3)).astype(np.float32) for _ in range(3)]
    crossed = cross(parts)
    for item in range(9):
        for column in range(3):
            expected = np.float32(parts[0][item, column] * parts[1][item, column]) * parts[2][item, column]
            assert crossed[item, column] == pytest.approx(expected, rel=1e-6)


def test_cross_reduces_the_longer_ones_to_the_shortest():
    rng = np.random.default_rng(0)
    short, long = rng.standard_normal((40, 3)), rng.standard_normal((40, 8))
    centred = long - long.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    expected = np.abs(short) * np.abs(centred @ directions[:3].T)
    assert np.abs(cross([short, long])) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["zscore", "minmax"])
def test_scaling_is_fitted_on_the_training_rows(method):
    rng = np.random.default_rng(0)
    part = rng.standard_normal((30, 4)) * [1, 5, 0, 2] + [0, 3, 7, 0]
    rows = rng.integers(0, 20, 500)  # the last ten table rows are no training row's
    scaling = fit_scaling(part, np.bincount(rows, minlength=30), method)
    scaled = scaling.apply(part)[rows]
    if method == "zscore":
        assert scaled.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-5)
        assert scaled.std(axis=0) == pytest.approx([1, 1, 0, 1], abs=1e-5)
    else:
        assert scaled.min(axis=0) == pytest.approx(np.zeros(4), abs=1e-6)
        assert scaled.max(axis=0) == pytest.approx([1, 1, 0, 1], abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_every_variant_has_its_published_width(made, task):
    known = PUBLISHED.get(task, PUBLISHED["tiktok_like"])["ablation"]  # finish has the widths of like
    tables = known["two_modal_concat"] | known["two_modal_cross"] | known["three_modal_cross"]
    widths = {name: entry["in_features"] for name, entry in tables.items()}
    widths["vat_concat"] = known["user_embedding_length"]["21"]["in_features"]
    assert set(widths) == {*CONCAT, *CROSS}
    for variant in (*CONCAT, *CROSS, "visual", "acoustic", "textual"):
        width = read_artifact(made.matrix / task / variant, "").manifest["in_features"]
        assert width == widths.get(variant, width), variant
    assert len(CONCAT) + len(CROSS) + len([name for name in SINGLE if name not in ("fused", "face")]) == 11


@pytest.mark.parametrize("length", [0, 5, 11, 15, 21, 30])
def test_every_embedding_length_has_its_published_width(made, tmp_path, length):
    """In separate folders, so that the shared ones do not change."""
    content = json.loads(made.file.read_text())
    content |= {"parent_folder": str(made.file.parent), "user_embedding_path": str(tmp_path / "u")}
    content |= {"matrix_path": str(tmp_path / "m")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    tasks = ("--task", "wechat_click", "tiktok_like")
    assert call(get_user_embedding.main, "--paths", tmp_path / "path.json", *tasks, "--length", length) == 0
    assert call(cross_matrix.main, "--paths", tmp_path / "path.json", *tasks) == 0
    for task in tasks[1:]:
        manifest = read_artifact(tmp_path / "m" / task / "vat_concat", "").manifest
        assert (
            manifest["in_features"] == PUBLISHED[task]["ablation"]["user_embedding_length"][str(length)]["in_features"]
        )
    if length == 0:
        data = load_interactions(made, "tiktok")
        artifact = read_artifact(tmp_path / "m/tiktok_like/vat_concat", "")
        part = artifact.array("user_part")
        assert part.shape[1] == 1
        index = part[:, 0] * artifact.array("user_scale")[0] + artifact.array("user_shift")[0]
        assert index[-len(data.user_ids) :] == pytest.approx(np.arange(len(data.user_ids)), abs=1e-3)


def test_gathered_rows_equal_rows_put_together_by_hand(made):
    matrix = load_matrix(made, "wechat_click", "vat_concat", torch.device("cpu"))
    inputs = load_step_inputs(made, "wechat_click")
    data, block = inputs.data, inputs.embedding.array("block")
    artifact = read_artifact(made.matrix / "wechat_click/vat_concat", "")
    users = [inputs.embedding.array(name) for name in ("visual", "acoustic", "textual")]
    items = concat([inputs.modal.array(name) for name in ("visual", "acoustic", "textual")])
    for place in (0, 7, len(matrix.train) - 1):
        row = matrix.train.rows[place]
        assert data.split[row] == TRAIN
        user = np.concatenate([table[block[row], data.user[row]] for table in users])
        expected = np.concatenate(
            [
                (user - artifact.array("user_shift")) / artifact.array("user_scale"),
                (items[data.item[row]] - artifact.array("item_shift")) / artifact.array("item_scale"),
            ]
        )
        here = slice(place, place + 1)
        actual = matrix.train.features(matrix, here)[0].numpy()
        assert actual == pytest.approx(expected, abs=1e-4)
        assert matrix.train.label[place] == data.label("click")[row]


def test_training_rows_have_mean_0_and_deviation_1(made):
    matrix = load_matrix(made, "tiktok_like", "vat_concat", torch.device("cpu"))
    rows = matrix.train.features(matrix, slice(None)).double()
    assert rows.mean(dim=0).abs().max() < 1e-4
    deviation = rows.std(dim=0, correction=0)
    # Of the acoustic embedding only 10 of 21 columns are not zero: there are 10 acoustic columns to pool.
    empty = torch.zeros(169, dtype=torch.bool)
    empty[22 + 10 : 22 + 21] = True
    assert (deviation[~empty] - 1).abs().max() < 1e-3 and (deviation[empty] == 0).all()


def test_rows_in_blocks():
    assert rows_in_blocks(np.array([0, 2]), np.array([0, 3], np.uint8), 100).tolist() == [0, 302]


def test_unknown_variant_and_missing_step_are_named(made, capsys):
    assert call(gen_matrix.main, "--paths", made.file, "--variant", "visul") == 2
    assert "did you mean 'visual'" in capsys.readouterr().err
    assert call(cross_matrix.main, "--paths", made.file, "--task", "wechat_clik") == 2
    assert "'wechat_click'" in capsys.readouterr().err


def test_more_table_rows_than_int32_can_number_are_refused():
    check_table_rows(200, 10_000_000, "users")
    with pytest.raises(UserError, match="use fewer --folds"):
        check_table_rows(200, 10_800_000, "users")
