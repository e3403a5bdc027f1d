"""Step 2: reductions against scikit-learn and loops, missing items, one matrix from several files."""

import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.feature_extraction.text import TfidfTransformer

import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets.base import DenseChunk, Modality
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.features.item_features import dense_features
from mma4ctr.features.reduction import PCA, Moments, at_most, cross, tfidf_svd
from mma4ctr.features.scaling import Scaling
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.text_blocks import Block
from tests.conftest import call


def test_streamed_pca_equals_sklearn():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((500, 12)) @ rng.standard_normal((12, 12)) + 100).astype(np.float32)
    moments = Moments(12)
    for part in np.array_split(values, 7):
        moments.add(part)
    ours = PCA.fit(moments, 5).transform(values)
    theirs = SklearnPCA(5, svd_solver="full").fit_transform(values.astype(np.float64))
    assert np.abs(ours) == pytest.approx(np.abs(theirs), abs=1e-3)


def test_what_is_narrow_enough_stays_as_it_is():
    values = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    assert at_most(values, 4) is values


@pytest.mark.parametrize("width", [3, 40])
def test_tfidf_svd_keeps_the_geometry_of_tfidf(width):
    counts = sparse.random(30, 40, 0.3, "csr", random_state=0)
    counts.data[:] = np.random.default_rng(0).integers(1, 5, len(counts.data))
    reduced = tfidf_svd(counts, width)
    weighted = TfidfTransformer().fit_transform(counts).toarray()
    singular = np.linalg.svd(weighted, compute_uv=False)[: reduced.shape[1]]
    assert np.linalg.norm(reduced, axis=0) == pytest.approx(singular, rel=1e-3)
    if width == 40:
        assert reduced @ reduced.T == pytest.approx(weighted @ weighted.T, abs=1e-5)


def test_min_max_scaling_equals_a_loop():
    values = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    values[:, 1] = 7
    for column, scaled in zip(values.T, Scaling.min_max(values).apply(values).T, strict=True):
        low, high = min(column), max(column)
        expected = [(x - low) / (high - low) if high > low else 0 for x in column.tolist()]
        assert scaled == pytest.approx(expected, abs=1e-6)


def test_items_without_a_modality_get_the_mean_and_are_marked(made):
    for dataset in ("wechat", "tiktok"):
        modal = read_artifact(made.modal / dataset, "")
        for name, width in modal.manifest["modalities"].items():
            values, present = modal.array(name), modal.array(f"{name}_present")
            assert values.shape == (len(present), width) and values.dtype == np.float32
            assert 0 < present.sum() < len(present)
            mean = values[present].mean(axis=0)
            assert np.abs(values[~present] - mean).max() < 1e-4
            assert np.isfinite(values).all()


def test_features_follow_the_items_own_lines(made):
    """Rows are matched by id: an item's row is the projection of its raw vector, up to the sign of each column."""
    data = load_interactions(made, "tiktok")
    modal = read_artifact(made.modal / "tiktok", "")
    raw = {}
    for path in sorted((made.tiktok / "track1").glob("track1_video_features_part*.txt")):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            raw[item["item_id"]] = item["video_feature_dim_128"]
    ids = [item for item in data.item_ids.tolist() if raw.get(item)]
    vectors = np.array([raw[item] + [0.0] * (128 - len(raw[item])) for item in ids])
    expected = SklearnPCA(71, svd_solver="full").fit_transform(vectors)
    rows = modal.array("visual")[np.isin(data.item_ids, ids)]
    distance = np.linalg.norm(rows[0] - rows[1:50], axis=1)
    assert distance == pytest.approx(np.linalg.norm(expected[0] - expected[1:50], axis=1), rel=1e-3)


def test_the_division_into_parts_does_not_matter(raw_copy):
    paths = raw_copy / "path.json"
    track = raw_copy / "dataset/TikTok2019ICME/track1"
    prints = []
    for moved in (False, True):
        if moved:
            lines = (track / "track1_audio_features_part4.txt").read_bytes().splitlines(keepends=True)
            (track / "track1_audio_features_part4.txt").write_bytes(b"".join(lines[:5]))
            (track / "track1_audio_features_part5.txt").write_bytes(b"".join(lines[5:]))
        assert call(preprocess_inter.main, "--paths", paths, "--dataset", "tiktok", "--min-interactions", 20) == 0
        assert call(preprocess_multimodal.main, "--paths", paths, "--dataset", "tiktok") == 0
        prints.append(read_artifact(raw_copy / "modal/tiktok", "").fingerprint)
    assert prints[0] == prints[1]


def test_width_option_and_data_that_cannot_give_a_width(raw_copy, capsys):
    paths = raw_copy / "path.json"
    assert call(preprocess_inter.main, "--paths", paths, "--dataset", "tiktok", "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, "--paths", paths, "--dataset", "tiktok", "--width", "textual=5000") == 0
    assert "textual has" in capsys.readouterr().err
    assert call(preprocess_multimodal.main, "--paths", paths, "--dataset", "tiktok", "--width", "visual=7") == 0
    assert read_artifact(raw_copy / "modal/tiktok", "").array("visual").shape[1] == 7


def test_numbers_that_overflow_are_refused():
    large = np.full((8, 3), 1e20, np.float32)
    with pytest.raises(UserError, match="beyond the range of float32"):
        cross([large, large])
    assert np.isfinite(cross([large, large / np.float32(1e10)])).all()
    values = np.zeros((8, 3), np.float32)
    values[0, :2] = 3.4e38
    moments = Moments(3)
    moments.add(values)
    with pytest.raises(UserError, match="too large for float32"):
        PCA.fit(moments, 2).transform(values)


def test_vectors_without_an_item_to_fit_on_stay_zero(tmp_path):
    """After step 2 the file of features may have changed: it has new items only."""
    values = np.ones((3, 9), np.float32)
    chunk = DenseChunk(Block(tmp_path, 0, 0, 0), np.array([5, 6, 7]), values, np.full(3, 9, np.int32), np.arange(3))
    modality = Modality("visual", 4, "dense", raw_width=9)
    fitted = np.array([True, False, False, False])
    features, present = dense_features([chunk], IdIndex(np.arange(4, 8)), modality, 4, tmp_path, fitted)
    assert not features.any() and present.tolist() == [False, True, True, True]
