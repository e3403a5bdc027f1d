"""Features plus: each part against a slow twin, no row's own label in its columns, and the steps from end to end."""

import re
import shutil
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit

import adjust_hyperparameter
import cross_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from benchmarks.reference import mlp_module
from mma4ctr.data.interactions import TRAIN, load_interactions
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_figures import feature_rows
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.behavioral import residual_svd
from mma4ctr.features.behavioral.columns import FEATURE_VERSION, context_of_training, item_content, plus_tables
from mma4ctr.features.behavioral.content_factors import (
    ContentFactors,
    Regression,
    find_directions,
    posterior_means,
)
from mma4ctr.features.behavioral.effects import Side, fit_effects, weighted_products, weighted_sum
from mma4ctr.features.behavioral.inputs import log_inputs
from mma4ctr.features.behavioral.residual_svd import FACTORS, Entries, Matrix, principal_items
from mma4ctr.features.behavioral.row_passes import (
    add_user_vectors,
    pair_scores,
    sums_of_item_vectors,
    sums_of_products,
)
from mma4ctr.features.behavioral.signals import TrainingRows, signals_of
from mma4ctr.features.feature_matrix import load_matrix, load_step_inputs
from mma4ctr.features.matrix_writer import PlusCache, plus_factors, write_matrix
from mma4ctr.features.variants import FEATURES, GROUPS, content_modalities, split_variant, variants_for, with_features
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network, initial_weights
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage import row_arrays
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call, cluster_few_rows, relabelled, vectors_of

CPU = torch.device("cpu")
# A context category of which every pair with an item has several rows.
CONTEXT_OF_ITEMS = {"tiktok_like": "channel", "wechat_click": "device"}
MODALITIES = ("visual", "acoustic", "textual")
# Vectors that depend on labels.
SUPERVISED = {"content_factors user", "content_factors item", "label_svd user", "label_svd item"}


def rows_of(inputs):
    data = inputs.data
    train = np.flatnonzero(data.split == TRAIN)
    block = inputs.embedding.array("block")[train]
    user, item = data.user[train], data.item[train]
    sizes = len(data.user_ids), len(data.item_ids), 5
    return TrainingRows(user, item, block, *sizes), train


def feature_row(factors, inputs, row):
    """Return the columns of an interaction before scaling."""
    data, block = inputs.data, int(inputs.embedding.array("block")[row])
    user = block * len(data.user_ids) + data.user[row]
    item = block * len(data.item_ids) + data.item[row]
    pairs = [table.block(block) for table in factors.plus.pairs]
    columns = [lookup.table[block, lookup.codes.codes[row]] for lookup in factors.plus.lookups]
    columns.append(factors.plus.recency[row])
    columns += [of_user[data.user[row]] @ of_item[data.item[row]] for of_user, of_item in pairs]
    return np.concatenate([factors.user_part[user], factors.item_part[item], *columns])


def arrays_of(factors):
    """Return every table by name."""
    found = {"user_part": factors.user_part, "item_part": factors.item_part, "recency": factors.plus.recency}
    for lookup in factors.plus.lookups:
        found |= {f"{lookup.codes.name} table": lookup.table, f"{lookup.codes.name} codes": lookup.codes.codes}
        found[f"{lookup.codes.name} keys"] = lookup.codes.keys
    return found | vectors_of(factors.plus)


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_no_label_of_a_later_row_goes_into_any_column(plus, task, monkeypatch):
    cluster_few_rows(monkeypatch)
    inputs = load_step_inputs(plus, task)
    later = np.flatnonzero(inputs.data.split != TRAIN)
    before = plus_factors(inputs, MODALITIES, plus.temp)
    after = plus_factors(relabelled(inputs, later), MODALITIES, plus.temp)
    before, after = arrays_of(before), arrays_of(after)
    assert {
        *SUPERVISED,
        "exposure_svd item",
        "user x device table",
        f"item x {CONTEXT_OF_ITEMS[task]} keys",
        "device table",
        "user x content cluster 4 table",
    } <= before.keys()
    assert before.keys() == after.keys()
    for name, part in before.items():
        assert part.tobytes() == after[name].tobytes(), name


def test_a_training_row_sees_its_own_label_in_no_target(plus, monkeypatch):
    cluster_few_rows(monkeypatch)
    inputs = load_step_inputs(plus, "tiktok_like")
    before = plus_factors(inputs, MODALITIES, plus.temp)
    for row in np.random.default_rng(0).choice(np.flatnonzero(inputs.data.split == TRAIN), 5, replace=False):
        after = plus_factors(relabelled(inputs, np.array([row])), MODALITIES, plus.temp)
        assert feature_row(after, inputs, row).tobytes() == feature_row(before, inputs, row).tobytes()
        moved = {name for name, part in arrays_of(before).items() if (part != arrays_of(after)[name]).any()}
        assert {"user_part", "item_part", "channel table", "user x channel table", *SUPERVISED} <= moved, (
            "others see it"
        )
        assert "user x content cluster 1 table" in moved


def test_a_training_row_is_not_among_what_its_user_was_shown(plus):
    """Also for the column without labels: the row's own item would raise its similarity."""
    inputs = load_step_inputs(plus, "tiktok_like")
    rows, train = rows_of(inputs)
    labels = {"like": inputs.data.label("like")[train]}
    features = [inputs.modal.array(name) for name in MODALITIES]
    columns = log_inputs(inputs.data)
    before = plus_tables(rows, labels, features, columns, plus.temp)
    row = 1234
    item = rows.item.copy()
    item[row] = (item[row] + 1) % rows.items
    everywhere = columns.rows.item.copy()
    everywhere[train[row]] = item[row]
    columns = replace(columns, rows=replace(columns.rows, item=everywhere))
    after = plus_tables(replace(rows, item=item), labels, features, columns, plus.temp)
    own, other = rows.fold[row], (rows.fold[row] + 1) % 5
    before, after = vectors_of(before), vectors_of(after)
    for name in ("content_factors", "exposure_svd", "label_svd"):
        one, changed = (found[f"{name} user"][:, rows.user[row]] for found in (before, after))
        assert (one[own] == changed[own]).all(), name
        assert (one[other] != changed[other]).any(), name
        one, changed = (found[f"{name} item"] for found in (before, after))
        assert (one[own] == changed[own]).all() and (one[other] != changed[other]).any(), name


@pytest.mark.parametrize(("widths", "fitted"), [((3,), None), ((20, 9), 150), ((70, 40), None), ((70, 40), 300)])
def test_the_content_of_items_is_their_scaled_pca(widths, fitted, monkeypatch):
    """Whatever the number of items at a time, against all items at once."""
    rng = np.random.default_rng(0)
    modalities = [rng.normal(size=(400, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k) for k in widths]
    modalities = [values.astype(np.float32) for values in modalities]
    parts = []
    for values in modalities:
        known = values[:fitted].astype(np.float64)
        parts.append((values - known.mean(axis=0)) / np.sqrt(np.linalg.eigvalsh(np.cov(known.T, ddof=0))[-1]))
    joined = np.concatenate(parts, axis=1)
    _, _, components = np.linalg.svd(joined[:fitted], full_matrices=False)
    expected = joined @ components[:64].T
    expected /= np.sqrt(np.mean(expected[:fitted] ** 2))
    for at_a_time in (1 << 16, 128, 7):
        monkeypatch.setattr("mma4ctr.features.behavioral.columns.ITEMS_AT_A_TIME", at_a_time)
        found = item_content(modalities, fitted)
        signs = np.sign((found * expected).sum(axis=0))
        assert found.dtype == np.float32 and np.allclose(found * signs, expected, atol=1e-4)


def test_the_content_of_many_items_takes_little_more_memory_than_its_result():
    values = np.random.default_rng(0).normal(size=(400_000, 32)).astype(np.float32)
    tracemalloc.start()
    content = item_content([values])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert content.nbytes < peak < 2.2 * content.nbytes


def test_products_and_posteriors_equal_those_of_a_loop(plus, monkeypatch):
    inputs = load_step_inputs(plus, "tiktok_finish")
    rows, _ = rows_of(inputs)
    content = item_content([inputs.modal.array(name) for name in MODALITIES])[:, :6]
    monkeypatch.setattr("mma4ctr.features.behavioral.content_factors.AT_A_TIME", 7)
    monkeypatch.setattr("mma4ctr.features.behavioral.effects.ITEMS_AT_A_TIME", 50)
    included = rows.included(2)
    found = sums_of_products(rows.starts[10:31], rows.item, rows.fold, 2, content)
    of_user = [content[rows.item[included & (rows.user == user)]].astype(float) for user in range(rows.users)]
    for user in range(10, 30):
        assert np.allclose(found[user - 10], of_user[user].T @ of_user[user], atol=1e-3)
    by_item = rows.by_item
    same = np.repeat(content[:1], rows.users, axis=0)
    of_item = sums_of_products(by_item.starts, by_item.other, by_item.fold, 2, same)
    counts = np.bincount(rows.item[included], minlength=rows.items)
    assert np.allclose(of_item, counts[:, None, None] * np.outer(content[0], content[0]), atol=1e-3)
    rng = np.random.default_rng(0)
    gradients, weight, shown = rng.normal(size=(rows.users, 6)), rng.random(rows.users), rng.random(rows.users)
    covariance, spread = np.cov(content.T), np.linspace(0.1, 0.5, 6)
    given = Regression(weight, gradients, shown, covariance, spread)
    means = posterior_means(rows.by_user, 2, content, given)
    for user, x in enumerate(of_user):
        precision = weight[user] * x.T @ x + shown[user] * covariance + np.diag(1 / spread)
        assert np.allclose(means[user], np.linalg.solve(precision, gradients[user]), atol=1e-4)
    weight, content64 = np.arange(len(content)) - 20, content.astype(np.float64)  # weights may be negative
    assert np.allclose(weighted_products(content, weight), (content64.T * weight) @ content64, rtol=1e-5, atol=1e-2)
    assert np.allclose(weighted_sum(content, weight), weight @ content64, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("targets", [1, 3])
def test_vector_sums_equal_products_with_the_dense_table(targets):
    rng = np.random.default_rng(targets)
    users, items, rows, width = 5, 7, 2_000, 4
    user = np.sort(rng.choice([0, 1, 3, 4], rows)).astype(np.int32)
    item = rng.integers(0, items, rows).astype(np.int32)
    values = rng.normal(size=(rows, targets)).astype(np.float32)
    table = np.zeros((users, targets, items))
    np.add.at(table.transpose(0, 2, 1), (user, item), values)
    of_items = rng.normal(size=(items, width)).astype(np.float32)
    of_users = rng.normal(size=(users, targets, width)).astype(np.float32)
    starts = np.searchsorted(user, np.arange(users + 1))
    assert np.allclose(sums_of_item_vectors(starts, item, values, of_items), table @ of_items, atol=1e-3)
    expected = np.einsum("uti,utk->ik", table, of_users)
    sums = np.zeros((items, width), np.float32)
    add_user_vectors(starts, item, values, of_users, sums)
    assert np.allclose(sums, expected, atol=1e-3)
    scores = (of_users[user, 0] * of_items[item]).sum(axis=1)
    assert np.allclose(pair_scores(user, item, of_users[:, 0].copy(), of_items), scores, atol=1e-5)


def drawn_world(rng, *, rows=60_000, own=0.0, chosen=0.0):
    """Draw rows of users whose factors differ in the directions `kept` of the content.

    `own` is the spread of items beyond content; `chosen` is how strongly factors decide what is shown.
    """
    users, items, width, kept = 300, 400, 12, 3
    content = rng.normal(size=(items, width)).astype(np.float32) * np.linspace(2, 0.5, width, dtype=np.float32)
    content -= content.mean(axis=0)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0][:, :kept]
    seen = content / content.std(axis=0) @ axes
    suits = 0.8 * rng.normal(size=(users, kept)) @ (seen + own * rng.normal(size=seen.shape)).T
    user = np.repeat(np.arange(users), rows // users)
    weight = np.exp(chosen * suits)
    item = np.concatenate([rng.choice(items, rows // users, p=w / w.sum()) for w in weight])
    label = (rng.random(len(user)) < 1 / (1 + np.exp(1 - suits[user, item]))).astype(np.uint8)
    user, item = user.astype(np.int32), item.astype(np.int32)
    rows = TrainingRows(user, item, np.zeros(len(user), np.uint8), users, items, 1)
    return rows, label, content, seen, suits


def signals_in(rows, labels, content):
    """Return the signals of the last block, with effects of users, items and content fitted on it."""
    targets = [(label, fitted(rows.user, rows.item, label, content, rows.users)) for label in labels.values()]
    return signals_of(rows, 1, {}, targets)


def fitted(user, item, label, content, users):
    """Return the effects of users, items and content."""
    sides = Side(users), Side(len(content), content=content)
    return fit_effects((user, item), {}, label, np.ones(len(label), bool), sides)


def agreement(user, item, suits):
    """Return the correlation of estimated and true suitability of items for users."""
    return np.corrcoef((user @ item.T).ravel(), suits.ravel())[0, 1]


def test_directions_are_those_in_which_factors_differ():
    rows, label, content, seen, _ = drawn_world(np.random.default_rng(5))
    signals = signals_in(rows, {"like": label}, content)
    found = find_directions(signals, content)
    assert signals.overdispersion == pytest.approx(1, abs=0.1)
    assert found.exposure < 0.1, "items are shown by chance"
    assert found.variance[:3].min() > 5 * found.variance[3:].max()
    z = found.of(content)
    shown = z[rows.item]
    assert np.allclose(shown.mean(axis=0), 0, atol=1e-3) and np.allclose(np.cov(shown.T), np.eye(12), atol=1e-2)
    fitted = z[:, :3] @ np.linalg.lstsq(z[:, :3], seen, rcond=None)[0]
    assert 1 - ((seen - fitted) ** 2).sum() / (seen**2).sum() > 0.9


def test_exposure_finds_factors_that_decide_what_is_shown():
    rows, label, content, _, suits = drawn_world(np.random.default_rng(6), rows=15_000, chosen=0.5)
    signals = signals_in(rows, {"like": label}, content)
    whole = ContentFactors(signals, content)
    assert whole.directions.exposure > 0.3
    known = agreement(whole.user, whole.item, suits)
    whole.directions = replace(whole.directions, exposure=0.0)
    assert known > agreement(whole._users(whole.item), whole.item, suits) + 0.02


def test_items_differ_from_their_content():
    rows, label, content, _, suits = drawn_world(np.random.default_rng(7), own=0.5)
    signals = signals_in(rows, {"like": label}, content)
    made = ContentFactors(signals, content)
    of_content = made.directions.of(content)
    assert agreement(made.user, made.item, suits) > agreement(made.user, of_content, suits) + 0.03


@pytest.mark.parametrize("exposure", [0.0, 0.4, 1.0])
def test_factors_equal_the_formulas_one_user_and_one_item_at_a_time(exposure, monkeypatch):
    """The posterior means of users and of items' deviations, with labels and exposures in the likelihood."""
    monkeypatch.setattr("mma4ctr.features.behavioral.content_factors.ITEMS_AT_A_TIME", 150)
    rows, label, content, _, _ = drawn_world(np.random.default_rng(10), rows=15_000, chosen=0.5)
    signals = signals_in(rows, {"like": label, "other": label[::-1].copy()}, content)
    made = ContentFactors(signals, content)
    made.directions = replace(made.directions, exposure=exposure)
    of_content, user_factors = made.directions.of(content), made.user.astype(np.float64)
    users, deviations = made._users(of_content), made._deviations(of_content)

    def posterior(gradient, rows_of_one, weight, shown, moments, variance):
        """`weight` of the labels' products, of `shown` rows; moments of the vectors over all rows."""
        mean, covariance = moments
        products = (
            weight * rows_of_one.T @ rows_of_one + exposure**2 * shown * covariance + np.eye(len(mean)) / variance
        )
        return np.linalg.solve(products, gradient)

    v, u = of_content.astype(np.float64), user_factors
    of_rows, of_row_users = v[rows.item], u[rows.user]
    moments_v, moments_u = ((x.mean(axis=0), np.cov(x.T, ddof=0)) for x in (of_rows, of_row_users))
    for one in range(0, rows.users, 29):
        mine = rows.user == one
        weight = signals.hessian_weight[mine].mean()
        gradient = signals.residual[mine] @ of_rows[mine] + exposure * (of_rows[mine] - moments_v[0]).sum(axis=0)
        expected = posterior(gradient, of_rows[mine], weight, mine.sum(), moments_v, made.directions.variance)
        assert np.allclose(users[one], expected, atol=1e-3)
    score = (of_row_users * of_rows).sum(axis=1)
    probabilities = [expit(effects.logit(rows.user, rows.item, {}) + score) for _, effects in signals.targets]
    residual = sum(given - p for (given, _), p in zip(signals.targets, probabilities, strict=True))
    hessian = sum(p * (1 - p) for p in probabilities) / signals.overdispersion
    for one in range(0, rows.items, 29):
        mine = rows.item == one
        surplus = of_row_users[mine] - moments_u[0] - exposure * moments_u[1] @ (v[one] - moments_v[0])
        gradient = residual[mine] @ of_row_users[mine] / signals.overdispersion + exposure * surplus.sum(axis=0)
        expected = posterior(gradient, of_row_users[mine], hessian[mine].mean(), mine.sum(), moments_u, 0.25)
        assert np.allclose(deviations[one], expected, atol=1e-3)


def test_a_target_that_stands_twice_counts_once():
    rows, label, content, _, _ = drawn_world(np.random.default_rng(8), rows=15_000)
    once = signals_in(rows, {"like": label}, content)
    twice = signals_in(rows, {"like": label, "again": label}, content)
    assert twice.overdispersion == pytest.approx(2 * once.overdispersion)
    assert np.allclose(twice.residual, once.residual) and np.allclose(twice.hessian_weight, once.hessian_weight)
    assert np.allclose(ContentFactors(twice, content).user, ContentFactors(once, content).user, atol=1e-4)


@pytest.mark.parametrize("width", [1, 3])
def test_content_that_says_nothing_gives_harmless_factors(width):
    rows, label, _, _, _ = drawn_world(np.random.default_rng(9), rows=3_000)
    content = np.zeros((400, width), np.float32)
    made = ContentFactors(signals_in(rows, {"like": label}, content), content)
    assert np.isfinite(made.user).all() and np.isfinite(made.item).all()
    assert np.abs(made.user @ made.item.T).max() < 0.5


def matrix_of(table):
    return Matrix(table.shape, table.__matmul__, table.T.__matmul__)


@pytest.mark.parametrize(("rows", "items", "many"), [(70, 40, 1 << 18), (40, 70, 1 << 18), (40, 70, 0), (70, 40, 0)])
def test_singular_vectors_equal_those_of_the_whole_table_less_its_noise(rows, items, many, monkeypatch):
    """Whether the iteration is on the items or, with many items and fewer rows, on the rows."""
    monkeypatch.setattr("mma4ctr.features.behavioral.residual_svd.MANY_ITEMS", many)
    rng = np.random.default_rng(3)
    signal = 3 * rng.normal(size=(rows, 3)) @ rng.normal(size=(3, items))
    table = signal + rng.normal(size=(rows, items))
    found, shares = principal_items(matrix_of(table))
    _, values, vectors = np.linalg.svd(table)
    assert found.shape == (items, FACTORS)
    assert np.allclose(np.sum(found**2, axis=0), 1)
    assert np.allclose(np.abs(np.sum(found * vectors[:FACTORS].T, axis=0)), 1)
    assert np.allclose(shares, 1 - (values[FACTORS] / values[:FACTORS]) ** 2, atol=1e-3)
    assert (shares[:3] > 0.9).all() and (shares[3:] < 0.75).all()
    later, _ = principal_items(matrix_of(table), skipped=1)
    assert np.allclose(np.abs(np.sum(later[:, :5] * vectors[1:6].T, axis=0)), 1)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("changed", [{"MANY_ITEMS": 0}, {"MANY_ITEMS": 0, "FEW_USERS": 0}, {"MOST_ROWS": 2000},
                                     {"MOST_ROWS": 2000, "MANY_ITEMS": 0}])  # fmt: skip
def test_vectors_of_many_items_or_rows_equal_those_of_few(monkeypatch, targets, changed):
    """With many items the iteration is on users, item by item if these are few; with many rows it has one filter."""
    rng = np.random.default_rng(5)
    users, items = 120, 400
    user, item = np.sort(rng.integers(0, users, 6000)).astype(np.int32), rng.integers(0, items, 6000).astype(np.int32)
    rows = TrainingRows(user, item, np.zeros(6000, np.uint8), users, items, 1)
    of_user, of_item = rng.normal(size=(users, targets, 20)), rng.normal(size=(items, 20)) * 2.0 ** -np.arange(20)
    values = np.einsum("ntk,nk->nt", of_user[user], of_item[item]).astype(np.float32)
    weight = rng.uniform(1, 50, (targets, users)), rng.uniform(1, 20, items)
    one = Entries.of(rows, values, *weight).factors()
    for name, value in changed.items():
        monkeypatch.setattr(residual_svd, name, value)
    other = Entries.of(rows, values, *weight).factors()
    products = [np.einsum("utk,ik->uti", *vectors) for vectors in (one, other)]
    error = np.linalg.norm(products[0] - products[1]) / np.linalg.norm(products[0])
    assert error < (0.02 if "MOST_ROWS" in changed else 1e-4)


@pytest.mark.parametrize("many", [0, 1 << 18])
@pytest.mark.parametrize("shape", [(1, 40), (2, 3), (40, 1), (5, 5)])
def test_a_table_without_content_or_of_few_rows_has_harmless_vectors(shape, many, monkeypatch):
    monkeypatch.setattr("mma4ctr.features.behavioral.residual_svd.MANY_ITEMS", many)
    for table in (np.zeros(shape), np.ones(shape)):
        for skipped in (0, 1):
            vectors, shares = principal_items(matrix_of(table), skipped)
            assert vectors.shape == (shape[1], len(shares)) and np.isfinite(vectors).all()
            assert ((shares >= 0) & (shares <= 1)).all()


def test_biases_find_what_the_labels_were_drawn_from():
    rng = np.random.default_rng(1)
    users, items, rows = 60, 80, 60_000
    content = rng.normal(size=(items, 4)).astype(np.float32)
    of_user, of_item = rng.normal(size=users), 0.5 * rng.normal(size=items) + content @ np.array([0.5, 0, -0.5, 0])
    user, item = (rng.integers(0, size, rows).astype(np.int32) for size in (users, items))
    label = (rng.random(rows) < 1 / (1 + np.exp(1 - of_user[user] - of_item[item]))).astype(np.uint8)
    found = fitted(user, item, label, content, users)
    assert np.corrcoef(found.user.total, of_user)[0, 1] > 0.98
    assert np.corrcoef(found.item.total, of_item)[0, 1] > 0.97
    chance = expit(found.logit(user, item, {}))
    assert chance.mean() == pytest.approx(label.mean(), rel=0.03), "calibrated"
    unseen = fitted(user[item < 70], item[item < 70], label[item < 70], content, users).item
    assert np.allclose(unseen.own[70:], 0) and np.corrcoef(unseen.content[70:], of_item[70:])[0, 1] > 0.5


def test_rows_are_gathered_and_scaled_as_the_tables_say(plus):
    task = "tiktok_like"
    inputs = load_step_inputs(plus, task)
    factors, matrix = plus_factors(inputs, MODALITIES, plus.temp), load_matrix(plus, task, "vat_concat.plus", CPU)
    made = matrix.train.features(matrix, slice(None)).numpy()
    assert made.shape[1] == matrix.in_features
    assert np.allclose(made.mean(axis=0), 0, atol=2e-3) and np.allclose(made.std(axis=0), 1, atol=2e-3)
    slow = np.stack([feature_row(factors, inputs, row) for row in matrix.train.rows])
    assert np.allclose(made, (slow - slow.mean(axis=0)) / slow.std(axis=0), atol=2e-3)
    # Test rows see the last block; those that the UMAP figure draws, too.
    chosen = np.arange(0, len(matrix.test), 3)
    expected = np.stack([feature_row(factors, inputs, row) for row in matrix.test.rows[chosen]])
    expected = (expected - slow.mean(axis=0)) / slow.std(axis=0)
    drawn = SimpleNamespace(result=SimpleNamespace(task=task, variant="vat_concat.plus"))
    for found in (matrix.test.features(matrix, chosen).numpy(), feature_rows(plus, drawn, chosen)):
        assert np.allclose(found, expected, atol=2e-3)


def test_only_a_row_group_gathers():
    """Code that gathers rows itself can use the wrong block, as the UMAP figure once did."""
    sources = [path for folder in ("mma4ctr", "benchmarks", "baseline") for path in (ROOT / folder).rglob("*.py")]
    calling = [path.name for path in [*sources, *ROOT.glob("*.py")] if ".gather(" in path.read_text()]
    assert calling == ["feature_matrix.py"]


def test_predicting_in_halves_equals_the_whole_network(plus):
    matrix = load_matrix(plus, "tiktok_like", "vat_concat.plus", CPU)
    network = Network(initial_weights(matrix.in_features, 0.1, 0))
    logits, _ = predict(network, matrix, matrix.test)
    with torch.no_grad():
        expected = mlp_module(network.state())(matrix.test.features(matrix, slice(None)))
    assert torch.allclose(logits, expected, atol=1e-5)


def test_the_steps_with_features_plus(plus, capsys):
    """The commands give a result better than that of the study's features, with few parameters."""
    for features in ("paper", "plus"):
        options = ("--paths", plus.file, "--task", "tiktok_finish", "--features", features, "--epochs", 8)
        assert call(mlp.main, *options) == 0
    paper, made = read_results(plus.results)[-2:]
    assert (paper.variant, made.variant) == ("vat_concat", "vat_concat.plus")
    assert made.auc > paper.auc + 0.01 and made.parameters <= 40_000
    assert (
        call(mlp.main, "--paths", plus.file, "--task", "tiktok_like", "--variant", "visual", "--features", "plus") == 2
    )
    assert "gen_matrix.py" in capsys.readouterr().err


def test_a_group_of_columns_can_be_left_out(plus):
    inputs = load_step_inputs(plus, "tiktok_like")
    whole = plus_factors(inputs, MODALITIES, plus.temp)

    def width(factors):
        return feature_row(factors, inputs, 0).size

    for group in GROUPS:
        left = plus_factors(inputs, MODALITIES, plus.temp, group)
        if group == "user-columns":
            # TikTok's users have a city and no number: it has effects, which are part of the users' bias.
            assert left.plus.names == whole.plus.names and (left.user_part != whole.user_part).any()
        else:
            assert 0 < width(left) < width(whole), group
            removed = set(whole.plus.names) - set(left.plus.names)
            assert removed and not any(name.partition(":")[0] == group for name in left.plus.names)
    with pytest.raises(UserError, match="content-factors"):
        plus_factors(inputs, MODALITIES, plus.temp, "content-factor")
    assert split_variant("vat_concat.plus-content-factors") == ("vat_concat", "plus", "content-factors")
    assert split_variant(with_features("title+tags_cross", "plus")) == ("title+tags_cross", "plus", "")
    assert split_variant("v1.2") == ("v1.2", "paper", "")


def test_the_widest_variant_takes_in_optional_modalities(plus):
    inputs = load_step_inputs(plus, "wechat_click")
    assert "fused" in inputs.modalities
    made = load_matrix(plus, "wechat_click", "vat_concat.plus", CPU)
    for modalities, equal in ((MODALITIES, False), ((*MODALITIES, "fused"), True)):
        content = vectors_of(plus_factors(inputs, modalities, plus.temp).plus)["content_factors item"]
        assert np.array_equal(np.concatenate(content), made.pairs[0].item_vectors.numpy()) == equal


@pytest.mark.parametrize("features", FEATURES)
def test_a_hint_names_the_command_that_makes_the_matrix(plus, tmp_path, capsys, features):
    """A missing or damaged matrix: running the command of the hint mends it."""
    shutil.copytree(plus.file.parent, tmp_path, dirs_exist_ok=True)
    options = "--paths", tmp_path / "path.json", "--task", "tiktok_like"
    folder = tmp_path / "matrix/tiktok_like" / with_features("vat_concat", features)

    def damage():
        path = folder / "item_part.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    for broken in (damage, lambda: shutil.rmtree(folder)):
        broken()
        assert call(mlp.main, *options, "--features", features, "--epochs", 1) == 2
        (line,) = capsys.readouterr().err.splitlines()
        command = re.search(r"run cross_matrix\.py(.*) (?:first|again)$", line)
        assert command, line
        assert call(cross_matrix.main, *options, *command[1].split()) == 0
        load_matrix(load_paths(tmp_path / "path.json"), "tiktok_like", folder.name, CPU)
        capsys.readouterr()


def test_a_matrix_of_other_columns_is_refused(plus, tmp_path, monkeypatch, capsys):
    """Step 5 refuses it; the sweep makes it again."""
    shutil.copytree(plus.file.parent, tmp_path, dirs_exist_ok=True)
    plus = load_paths(tmp_path / "path.json")
    monkeypatch.setattr("mma4ctr.features.feature_matrix.FEATURE_VERSION", FEATURE_VERSION + 1)
    assert call(mlp.main, "--paths", plus.file, "--task", "tiktok_like", "--features", "plus") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "made by an earlier version, with other columns; run cross_matrix.py --features plus again" in line
    made = adjust_hyperparameter.make_matrix(plus, "tiktok_like", "vat_concat.plus", "zscore", PlusCache())
    assert made.settings["plus_columns"] == FEATURE_VERSION + 1
    load_matrix(plus, "tiktok_like", "vat_concat.plus", CPU)


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_half_precision_changes_no_value_by_more_than_its_rounding(plus, tmp_path, monkeypatch, task):
    """With many items the vectors are made in turn, and the item vectors are stored as float16."""
    monkeypatch.setattr("mma4ctr.features.matrix_writer.HALF_PRECISION_FROM", 0)
    monkeypatch.setattr("mma4ctr.features.behavioral.blocks.MOST_ITEMS_AT_ONCE", 0)
    inputs, own = load_step_inputs(plus, task), replace(plus, matrix=tmp_path / "matrix")
    content = content_modalities(variants_for(plus, task), "vat_concat", inputs.modalities)
    write_matrix(own, inputs, "vat_concat.plus", plus_factors(inputs, content, plus.temp), scaling="zscore")
    whole, half = (load_matrix(paths, task, "vat_concat.plus", CPU) for paths in (plus, own))
    for one, other in zip(whole.pairs, half.pairs, strict=True):
        assert (one.item_vectors.dtype, other.item_vectors.dtype) == (torch.float32, torch.float16)
        size = other.item_vectors.float().square().mean().sqrt()
        assert 0.5 < size < 2, "far from the smallest numbers of float16"
    for group in ("train", "valid", "test"):
        one, other = (getattr(matrix, group).features(matrix, slice(None)) for matrix in (whole, half))
        assert torch.allclose(one, other, rtol=2e-3, atol=5e-3), (one - other).abs().max()
        assert not torch.equal(one, other)


def test_an_embedding_that_saw_every_label_is_refused(plus):
    inputs = load_step_inputs(plus, "tiktok_like")
    inputs.embedding.manifest["settings"]["evidence"] = "all"
    with pytest.raises(UserError, match="--evidence train"):
        plus_factors(inputs, MODALITIES, plus.temp)


def test_biases_of_users_alone_rank_better_than_chance(plus):
    """Tests the user's rate in the last block on test rows."""
    data = load_interactions(plus, "tiktok")
    matrix = load_matrix(plus, "tiktok_finish", "vat_concat.plus", CPU)
    test = data.split == 2
    assert auc(data.label("finish")[test], matrix.user_part[matrix.test.user_row][:, 0].numpy()) > 0.6


def test_biases_of_a_rare_action_are_found_where_some_users_act_often():
    rng = np.random.default_rng(2)
    users, items, rows = 400, 50, 120_000
    of_user = np.where(np.arange(users) < 8, 5.0, 0.0)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(7 - of_user[user]))).astype(np.uint8)
    found = fitted(user, item, label, rng.normal(size=(items, 4)).astype(np.float32), users).user.total
    assert np.abs(found).max() < 6 and found[:8].min() > found[8:].max() + 1


def test_a_context_category_with_one_value_has_no_column(plus):
    """Its effect differs between the blocks by noise; scaled, it would move every test row by many deviations."""
    inputs = load_step_inputs(plus, "tiktok_like")
    found = log_inputs(inputs.data)
    train = np.flatnonzero(inputs.data.split == TRAIN)
    constant = found.context["device"].copy()
    constant[train] = constant[train[0]]
    kept, of_training = context_of_training(replace(found, context=found.context | {"device": constant}))
    assert kept.context.keys() == of_training.keys()
    assert kept.context.keys() == found.context.keys() - {"device"} and "device" not in kept.paired
    kept, of_training = context_of_training(found)
    assert kept.context.keys() == found.context.keys()
    assert all((of_training[name] == codes[train]).all() for name, codes in found.context.items())


def test_columns_of_test_rows_are_on_the_scale_of_the_training_rows(tmp_path, made):
    """With a constant channel in the raw rows, the mean of every column stays within 3 deviations of the training."""
    shutil.copytree(made.file.parent / "dataset", tmp_path / "dataset")
    shutil.copy(made.file, tmp_path)
    (log,) = (tmp_path / "dataset").rglob("final_track1_train.txt")
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    for row in rows:
        row[5] = "3"
    log.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    paths = ("--paths", tmp_path / "path.json")
    assert call(preprocess_inter.main, *paths, "--dataset", "tiktok", "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, *paths, "--dataset", "tiktok") == 0
    assert call(get_user_embedding.main, *paths, "--task", "tiktok_like") == 0
    assert call(cross_matrix.main, *paths, "--task", "tiktok_like", "--features", "plus") == 0
    matrix = load_matrix(load_paths(tmp_path / "path.json"), "tiktok_like", "vat_concat.plus", CPU)
    mean = matrix.test.features(matrix, slice(None)).mean(dim=0)
    assert mean.abs().max() < 3, mean


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_many_rows_in_files_give_the_columns_of_rows_in_memory(plus, task, monkeypatch):
    """Arrays of rows in files, and passes over many parts of the rows."""
    cluster_few_rows(monkeypatch)

    def made():
        inputs = load_step_inputs(plus, task)
        factors = plus_factors(inputs, MODALITIES, plus.temp)
        write_matrix(plus, inputs, "vat_concat.plus", factors, scaling="zscore")
        matrix = load_matrix(plus, task, "vat_concat.plus", CPU)
        groups = [matrix.train, matrix.valid, matrix.test]
        return [group.features(matrix, slice(0, len(group))) for group in groups], groups, inputs.data.arrays

    features, groups, _ = made()
    monkeypatch.setattr(row_arrays, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(row_arrays, "ROWS_AT_A_TIME", 999)
    monkeypatch.setattr(row_arrays, "MOST_RESIDENT", 0)
    monkeypatch.setattr("mma4ctr.features.behavioral.rates.POSSIBLE_A_ROW", 0)
    monkeypatch.setattr("mma4ctr.features.behavioral.rates.LEAST_MERGED", 100)
    in_files, same_groups, arrays = made()
    assert arrays.empty((1,), np.uint8).base is not None
    for one, other, group, same_group in zip(features, in_files, groups, same_groups, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
        assert (group.rows == same_group.rows).all() and (group.label == same_group.label).all()
