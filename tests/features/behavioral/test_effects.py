"""The columns of features plus other than content against slow twins: effects, rates, pairs, bins, recency; leakage."""

import csv
import itertools
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from benchmarks.reference import mlp_module
from mma4ctr.data.interactions import TRAIN, LogRows
from mma4ctr.data.log_columns import StoredColumn
from mma4ctr.data.row_order import day_and_position
from mma4ctr.datasets.tiktok import COLUMNS
from mma4ctr.features.behavioral import effects
from mma4ctr.features.behavioral.columns import row_codes
from mma4ctr.features.behavioral.effects import Side, fit_effects
from mma4ctr.features.behavioral.inputs import (
    PARTS_OF_A_DAY,
    LogInputs,
    SideInputs,
    bins_of,
    log_inputs,
    normal_scores,
    quantile_edges,
    recency_of,
    side_inputs,
    times_of_days,
)
from mma4ctr.features.behavioral.rates import PRIOR, category_codes, find_pairs, pair_codes, rates_and_counts
from mma4ctr.features.feature_matrix import load_matrix, load_step_inputs, rows_in_blocks
from mma4ctr.features.matrix_writer import plus_factors
from mma4ctr.model import inference
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network, initial_weights
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import prepare, relabelled, vectors_of

CPU = torch.device("cpu")
MODALITIES = ("visual", "acoustic", "textual")
VARIANT = "vat_concat.plus"

# Effects against the dense Newton method


@dataclass
class SmallLog:
    """Rows of a small log with categories of users, items and context."""

    user: np.ndarray
    item: np.ndarray
    context: dict
    label: np.ndarray
    sides: tuple

    def fit(self):
        index = self.user.astype(np.int32), self.item.astype(np.int32)
        context = {name: codes.astype(np.uint16) for name, codes in self.context.items()}
        included = np.ones(len(self.user), bool)
        return fit_effects(index, context, self.label.astype(np.uint8), included, self.sides)

    def logits(self, found):
        return found.logit(self.user, self.item, self.context)

    def part(self, rows):
        context = {name: codes[rows] for name, codes in self.context.items()}
        return replace(self, user=self.user[rows], item=self.item[rows], label=self.label[rows], context=context)


def small_log(rows=1500, *, content=0, seed=0):
    rng = np.random.default_rng(seed)
    users, items = 30, 24
    city, author = rng.integers(0, 4, users), rng.integers(0, 6, items)
    vectors = rng.normal(size=(items, content)).astype(np.float32) if content else None
    user, item, channel = rng.integers(0, users, rows), rng.integers(0, items, rows), rng.integers(0, 3, rows)
    true = -0.5 + 0.8 * rng.normal(size=users)[user] + rng.normal(size=6)[author[item]] + 0.5 * channel
    if vectors is not None:
        true += vectors[item] @ rng.normal(size=content)
    label = (rng.random(rows) < expit(true)).astype(np.float64)
    sides = Side(users, {"city": city}), Side(items, {"author": author}, vectors)
    return SmallLog(user, item, {"channel": channel}, label, sides)


def blocks_of(log):
    """Return the code of each row in each random effect, and the number of codes, by name."""
    user, item = log.sides
    codes = {"user": log.user, "item": log.item, "channel": log.context["channel"]}
    codes |= {"city": user.categories["city"][log.user], "author": item.categories["author"][log.item]}
    sizes = {"user": user.size, "item": item.size, "city": 4, "author": 6, "channel": 3}
    return {name: (codes[name], sizes[name]) for name in sizes}


def dense_modes(log, variances):
    """Return the intercept and all effects by Newton's method on the penalised likelihood; content has variance 1."""
    rows = len(log.label)
    design, penalty, places = [np.ones((rows, 1))], [np.zeros(1)], {}
    for name, (codes, size) in blocks_of(log).items():
        places[name] = slice(sum(part.shape[1] for part in design), sum(part.shape[1] for part in design) + size)
        design.append(np.eye(size)[codes])
        penalty.append(np.full(size, 1 / variances[name]))
    content = log.sides[1].content
    if content is not None:
        design.append(content[log.item].astype(float))
        penalty.append(np.ones(content.shape[1]))
    whole, ridge = np.concatenate(design, axis=1), np.concatenate(penalty)
    effect = np.zeros(whole.shape[1])
    for _ in range(50):
        chance = expit(whole @ effect)
        hessian = (whole.T * (chance * (1 - chance))) @ whole + np.diag(ridge) + 1e-12 * np.eye(len(ridge))
        effect += np.linalg.solve(hessian, whole.T @ (log.label - chance) - ridge * effect)
    return effect[0], {name: effect[place] for name, place in places.items()}, whole @ effect


@pytest.fixture
def fixed_variance(monkeypatch):
    """All effects keep their first variance, and there are enough steps to reach the mode."""
    for name in ("SMALLEST_VARIANCE", "LARGEST_VARIANCE", "FIRST_VARIANCE"):
        monkeypatch.setattr(effects, name, 0.3)
    monkeypatch.setattr(effects, "STEPS", 15)
    monkeypatch.setattr(effects, "ROUNDS", 60)


def test_effects_are_the_modes_of_the_penalised_likelihood(fixed_variance):
    log = small_log()
    found = log.fit()
    base, expected, row_logits = dense_modes(log, dict.fromkeys(blocks_of(log), 0.3))
    assert np.allclose(log.logits(found), row_logits, atol=1e-4)
    assert found.base == pytest.approx(base, abs=1e-3)
    assert np.allclose(found.user.own, expected["user"], atol=1e-3)
    assert np.allclose(found.item.own, expected["item"], atol=1e-3)
    assert np.allclose(found.user.categories["city"], expected["city"], atol=1e-3)
    assert np.allclose(found.item.categories["author"], expected["author"], atol=1e-3)
    assert np.allclose(found.context["channel"], expected["channel"], atol=1e-3)


def test_effects_of_content_are_the_modes_too(fixed_variance):
    log = small_log(content=3)
    found = log.fit()
    rows = log.logits(found)
    _, _, row_logits = dense_modes(log, dict.fromkeys(blocks_of(log), 0.3))
    # The steps of content and own effect alternate, so they come near to the mode more slowly.
    assert np.allclose(rows, row_logits, atol=0.02)
    content = log.sides[1].content
    assert np.allclose(found.item.content, content @ found.item.coefficients, atol=1e-5)
    total = found.item.own + found.item.content + found.item.categories["author"][log.sides[1].categories["author"]]
    assert np.allclose(found.item.total, total)


def test_few_steps_come_near_to_the_modes(monkeypatch):
    """The default numbers of steps, with the variances that they estimate."""
    log = small_log(4000)
    found = log.fit()
    rows = log.logits(found)
    monkeypatch.setattr(effects, "STEPS", 40)
    monkeypatch.setattr(effects, "ROUNDS", 20)
    slow = log.fit()
    slow_rows = log.logits(slow)
    assert np.corrcoef(rows, slow_rows)[0, 1] > 0.998
    assert np.sqrt(np.mean((expit(rows) - expit(slow_rows)) ** 2)) < 0.02
    assert np.allclose(found.user.total, slow.user.total, atol=0.15)


def test_effects_shrink_to_0_without_differences_of_labels():
    log = small_log(6000)
    log.label = (np.random.default_rng(4).random(6000) < 0.3).astype(float)
    found = log.fit()
    assert found.base == pytest.approx(logit(log.label.mean()), abs=0.1)
    for effect in (found.user.total, found.item.total, found.context["channel"]):
        assert np.abs(effect).max() < 0.2


def test_the_fewer_rows_the_nearer_to_0(fixed_variance):
    """The effects of users whose labels are all 1 are smaller with fewer rows."""
    rows_of = np.repeat(np.arange(6), [1, 2, 4, 8, 16, 400])
    label = np.where(rows_of == 5, np.arange(len(rows_of)) % 2, 1).astype(float)
    log = SmallLog(rows_of, np.zeros(len(rows_of), int), {}, label, (Side(7), Side(1)))
    own = log.fit().user.own
    assert (np.diff(own[:5]) > 0.02).all() and own[0] > 0 and own[6] == 0


def test_who_has_no_rows_has_the_effects_of_the_category():
    log = small_log(5000, content=2)
    log = log.part((log.user != 7) & (log.item != 9) & (log.context["channel"] != 2))
    log.context["channel"] = np.where(log.context["channel"] == 1, 3, 0)
    found = log.fit()
    user, item = found.user, found.item
    city, author = log.sides[0].categories["city"], log.sides[1].categories["author"]
    assert user.own[7] == 0 and user.total[7] == user.categories["city"][city[7]] != 0
    assert item.own[9] == pytest.approx(0, abs=1e-12)
    assert item.total[9] == pytest.approx(item.categories["author"][author[9]] + item.content[9])
    assert found.context["channel"][1] == found.context["channel"][2] == 0 != found.context["channel"][3]
    unseen = log.part(~np.isin(author[log.item], [author[9]]))
    assert unseen.fit().item.categories["author"][author[9]] == 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_or_no_row_has_finite_effects(label):
    log = small_log(200, content=2)
    log.label[:] = label
    for one in (log, log.part(np.zeros(200, bool))):
        found = one.fit()
        parts = (found.base, found.user.total, found.item.total, found.context["channel"])
        assert all(np.isfinite(part).all() for part in parts)


# Rates and pairs

coded = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@given(coded, st.integers(2, 4))
def test_rates_and_counts_equal_a_loop(rows, folds):
    codes, *labels = (np.array(column, np.uint8) for column in zip(*rows, strict=True))
    fold = (np.arange(len(rows)) % folds).astype(np.uint8)
    found = rates_and_counts(codes.astype(np.int32), 6, labels, fold, folds)
    assert found.shape == (folds + 1, 6, 3) and found.dtype == np.float32
    for block, code in itertools.product(range(folds + 1), range(6)):
        seen = [row for row, of_row in zip(rows, fold, strict=True) if of_row != block]
        own = [row for row in seen if row[0] == code]
        for target in (0, 1):
            share = (sum(row[1 + target] for row in seen) + 0.5) / (len(seen) + 1)
            rate = (sum(row[1 + target] for row in own) + PRIOR * share) / (len(own) + PRIOR)
            expected = np.log(rate / (1 - rate)) - np.log(share / (1 - share))
            assert found[block, code, target] == pytest.approx(expected, abs=1e-5)
        scale = folds / (folds - 1) if block < folds else 1
        assert found[block, code, 2] == pytest.approx(np.log(1 + scale * len(own)), abs=1e-5)
    counts_alone = rates_and_counts(codes.astype(np.int32), 6, [], fold, folds)
    assert (counts_alone == found[:, :, 2:]).all()


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=40)


def log_of(user, item=None):
    """Rows of which all are training rows."""
    split = np.full(len(user), TRAIN, np.uint8)
    return LogRows(user=user, item=user if item is None else item, split=split)


@given(pairs, pairs)
def test_codes_of_pairs_equal_a_dictionary(seen, asked):
    seen = sorted(seen)  # rows are in order of users
    entity, category = (np.array(column) for column in zip(*seen, strict=True))
    found = pair_codes(log_of(entity), "user", "tab", category.astype(np.uint8), rows_a_pair=1)
    known = {pair: 1 + place for place, pair in enumerate(sorted(set(seen)))}
    assert found.codes.tolist() == [known[pair] for pair in seen] and found.size == len(known) + 1
    for possible in (0, 1 << 10):  # by binary search, and in a table
        with mock.patch("mma4ctr.features.behavioral.rates.POSSIBLE_A_PAIR", possible):
            one = replace(found)  # nothing is cached
            assert (one.code_of_key is None) == (possible == 0)
            place = find_pairs(one, *(np.array(column) for column in zip(*asked, strict=True)))
            assert place.tolist() == [known.get(pair, 0) for pair in asked]
            assert (find_pairs(one, entity, category) == found.codes).all()


def test_codes_of_a_category_have_no_keys():
    found = category_codes("tab", np.array([0, 3, 1], np.uint8))
    assert found.size == 4 and not len(found.keys)
    empty = pair_codes(log_of(np.empty(0, np.int32)), "user", "tab", np.empty(0, np.uint8))
    assert find_pairs(empty, np.array([0, 1]), np.array([0, 1])).tolist() == [0, 0]


def test_entities_of_any_size_do_not_overflow():
    entity = np.array([2**31 - 2, 2**31 - 1, 2**31 - 1], np.int32)
    category = np.array([255, 255, 254], np.uint8)
    found = pair_codes(log_of(entity), "user", "tab", category, rows_a_pair=1)
    assert found.codes.tolist() == [1, 3, 2]
    assert find_pairs(found, entity, category).tolist() == [1, 3, 2]
    # An unknown category must not be read as the pair of another user.
    assert find_pairs(found, np.array([2**31 - 2]), np.array([255 + 256])).tolist() == [0]


# Bins, normal scores, recency

values_of = st.lists(st.one_of(st.just(np.nan), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=60)


@given(values_of)
def test_bins_hold_equal_shares_and_no_missing_value(values):
    values = np.array(values)
    edges = quantile_edges(values)
    known = np.isfinite(values)
    for count in (1, 4, 8):
        inner = sorted({float(np.quantile(edges, place / count)) for place in range(1, count)})
        expected = [
            0 if not ok else 1 + sum(one >= edge for edge in inner) for one, ok in zip(values, known, strict=True)
        ]
        assert bins_of(values, edges, count).tolist() == expected


def test_bins_of_many_distinct_values_are_of_one_size():
    values = np.random.default_rng(0).lognormal(size=8000)
    counts = np.bincount(bins_of(values, quantile_edges(values), 8), minlength=9)
    assert counts[0] == 0 and (np.abs(counts[1:] - 1000) < 20).all()


def test_normal_scores_are_quantiles_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    values = rng.permutation(np.append(rng.exponential(size=3000), [np.nan] * 5))
    scores = normal_scores(values, quantile_edges(values))
    known = values[np.isfinite(values)]
    expected = [0 if np.isnan(one) else norm.ppf((np.sum(known < one) + 0.5) / len(known)) for one in values]
    middle = np.abs(expected) < 2
    assert np.allclose(scores[middle], np.array(expected)[middle], atol=0.02)
    assert scores.dtype == np.float32 and np.abs(scores).max() <= 3 and (scores[np.isnan(values)] == 0).all()
    order = np.argsort(known)
    assert (np.diff(scores[np.isfinite(values)][order]) >= 0).all()


@pytest.mark.parametrize("values", [[np.nan, np.nan], [3.0, 3.0, 3.0], [np.nan, 2.0]])
def test_constant_numbers_have_finite_scores(values):
    values = np.array(values)
    edges = quantile_edges(values)
    assert np.isfinite(normal_scores(values, edges)).all()
    assert len(np.unique(bins_of(values, edges, 8)[np.isfinite(values)])) <= 1


seconds = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200_000)), min_size=1, max_size=40)


@given(seconds)
def test_recency_equals_a_loop(rows):
    rows = sorted(rows)
    user, time = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    found = recency_of(user, time * 1000, 1000.0)
    earlier = [[then for other, then in rows if other == one and then < moment] for one, moment in rows]
    gaps = [moment - max(times) if times else None for times, (_, moment) in zip(earlier, rows, strict=True)]
    longest = max([gap for gap in gaps if gap is not None], default=0)
    gaps = np.array([longest if gap is None else gap for gap in gaps])
    assert found.shape == (len(rows), 3) and np.isfinite(found).all()
    order = np.argsort(gaps, kind="stable")
    assert (np.diff(found[order, 0]) >= 0).all(), "a longer gap has a larger score"
    assert (np.abs(np.diff(found[order, 0]))[np.diff(gaps[order]) == 0] == 0).all()
    for place, window in ((1, 3600), (2, 86_400)):
        for row, (times, (_, moment)) in enumerate(zip(earlier, rows, strict=True)):
            count = sum(moment - then <= window for then in times)
            assert found[row, place] == pytest.approx(np.log1p(count), abs=1e-6)
    assert recency_of(user, time, None).shape == (len(rows), 1)


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_recency_is_the_same_in_parts(monkeypatch, at_a_time):
    rng = np.random.default_rng(at_a_time)
    user = np.sort(rng.integers(0, 40, 900))
    time = rng.integers(0, 10**6, 900)[np.argsort(user, kind="stable")]
    time = time[np.lexsort((time, user))]
    # Many rows are an hour or a day apart.
    apart = np.sort(rng.integers(0, 20 * 48, 900))[np.argsort(np.argsort(time + 10**7 * user))]
    cases = [(time, 1.0), (apart, 1 / 1800)]
    whole = [recency_of(user, *case) for case in cases]
    monkeypatch.setattr("mma4ctr.storage.row_arrays.ROWS_AT_A_TIME", at_a_time)
    for case, expected in zip(cases, whole, strict=True):
        assert (recency_of(user, *case) == expected).all()


def test_recency_of_nothing_is_nothing():
    assert recency_of(np.empty(0, np.int64), np.empty(0, np.int64), 1.0).shape == (0, 3)


@given(st.integers(1, 30), st.data())
def test_recency_sees_no_later_row(count, data):
    """Except for the ranks of the gaps, which use all rows, only earlier rows count."""
    user = np.sort(np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))))
    moments = data.draw(st.lists(st.integers(0, 10_000), min_size=count, max_size=count))
    time = np.array([moment for _, moment in sorted(zip(user.tolist(), moments, strict=True))])
    whole = recency_of(user, time, 1.0)
    for user_of, last in {(one, int(np.flatnonzero(user == one)[-1])) for one in user.tolist()}:
        later = time.copy()
        later[last] += 5000
        changed = recency_of(user, later, 1.0)
        before = np.arange(count) < last
        assert (whole[before, 1:] == changed[before, 1:]).all(), user_of


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30), st.integers(1, 10))
def test_recency_of_days_does_not_tell_how_many_rows_follow(rows, more):
    """More rows at the end of a user's last day change no earlier row, though they change each fraction of that day."""
    user, day = (np.array(column, np.int64) for column in zip(*sorted(rows), strict=True))
    longer_user, longer_day = np.append(user, [user[-1]] * more), np.append(day, [day[-1]] * more)
    times = [
        times_of_days(of_user, day_and_position(of_user, of_day))
        for of_user, of_day in ((user, day), (longer_user, longer_day))
    ]
    assert (times[1][: len(user)] == times[0]).all() and (np.diff(times[0])[np.diff(user) == 0] > 0).all()
    found = [recency_of(*case, PARTS_OF_A_DAY / 86_400) for case in ((user, times[0]), (longer_user, times[1]))]
    assert (found[1][: len(user), 1:] == found[0][:, 1:]).all()
    earlier = [sorted(rows)[:place].count(one) for place, one in enumerate(sorted(rows))]
    assert np.allclose(np.expm1(found[0][:, 1]), earlier)


@given(seconds)
def test_recency_does_not_tell_the_order_of_rows_of_one_time(rows):
    """Step 1 writes sampled negatives after their positive, with its time."""
    rows = sorted(rows)
    user, time = (np.repeat(np.array(column, np.int64), 4) for column in zip(*rows, strict=True))
    found = recency_of(user, time, 1.0).reshape(len(rows), 4, 3)
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("width", [1e-30, 1e-9, 1.0, 1e30])
def test_normal_scores_do_not_depend_on_the_unit(width):
    values = np.random.default_rng(0).exponential(size=500).astype(np.float32).astype(np.float64)
    scores = normal_scores(values, quantile_edges(values))
    assert np.allclose(normal_scores(values * width, quantile_edges(values * width)), scores, atol=1e-5)
    assert len(np.unique(scores)) > 400


@given(st.integers(1, 40), st.integers(2, 12), st.data())
def test_users_pair_with_item_categories_of_many_values_and_rows(users, values, data):
    """A pair has a code if its category has 8 values or more and the log two rows or more a pair."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    category, length = rng.integers(0, values, 60), rng.normal(size=60)
    none = np.empty(0, np.int64)
    columns = [
        StoredColumn("author", category.astype(np.uint8), 12, none),
        StoredColumn("length", length.astype(np.float32), 0, none),
    ]
    side = side_inputs(columns, 60, "item")
    assert side.paired == ("author", "length/8") and side.rated == ("author",)
    user, item = rng.integers(0, users, 300).astype(np.int32), rng.integers(0, 60, 300).astype(np.int32)
    inputs = LogInputs(log_of(user, item), SideInputs(), side, {}, np.zeros((300, 0), np.float32), ())
    found = {one.name: one for one in row_codes(inputs)}
    for name in side.paired:
        code = side.categories[name][item]
        pairs = sorted(set(zip(user.tolist(), code.tolist(), strict=True)))
        expected = side.categories[name].max() >= 8 and 2 * len(pairs) <= 300
        assert (f"user x item {name}" in found) == expected
        if expected:
            one = found[f"user x item {name}"]
            assert (one.side, one.of, one.category, one.size) == ("user", "item", name, len(pairs) + 1)
            assert one.codes.tolist() == [1 + pairs.index(pair) for pair in zip(user, code, strict=True)]


@pytest.mark.parametrize("task", ["tiktok_finish", "wechat_click"])
def test_a_table_of_pairs_has_the_rates_of_the_tasks_own_target(plus, task):
    """The table is made for the columns of a task; every one equals that of all targets together."""
    inputs = load_step_inputs(plus, task)
    data, target = inputs.data, task.partition("_")[2]
    block, train = inputs.embedding.array("block"), np.flatnonzero(data.split == TRAIN)
    tables = plus_factors(inputs, MODALITIES, plus.temp).plus
    pairs = [one for one in tables.lookups if one.codes.side]
    assert {"context", "item"} <= {one.codes.of for one in pairs}
    for one in pairs:
        name = one.codes.name
        assert one.names == [f"pair-rates:{name}:{target}", f"counts:{name}"]
        codes = one.codes.codes[train]
        expected = rates_and_counts(codes, one.codes.size, [data.label(target)[train]], block[train], 5)
        assert (one.table == expected).all()
        without_counts = tables.chosen([f"pair-rates:{name}:{target}"]).lookups[0]
        assert (without_counts.table == expected[:, :, :1]).all()


# Leakage, over every array of features plus


def every_array(factors):
    """Return all arrays of features plus before scaling, by name."""
    tables = factors.plus
    found = {"user_part": factors.user_part, "item_part": factors.item_part, "recency": tables.recency}
    for one in tables.lookups:
        name = one.codes.name
        found |= {f"{name} table": one.table, f"{name} codes": one.codes.codes, f"{name} keys": one.codes.keys}
    for one in tables.pairs:
        if one.of_content is not None:
            found[f"{one.kind} of content"] = one.of_content
    return found | vectors_of(tables)


def inputs_of_row(factors, inputs, row):
    """Return the table rows, codes and vectors from which a row's columns are made, before scaling, by name."""
    data, block, tables = inputs.data, int(inputs.embedding.array("block")[row]), factors.plus
    user, item = (rows_in_blocks(one[[row]], np.array([block]), size)[0] for one, size in (
        (data.user, len(data.user_ids)), (data.item, len(data.item_ids))))  # fmt: skip
    found = {"user": factors.user_part[user], "item": factors.item_part[item], "recency": tables.recency[row]}
    for one in tables.lookups:
        code = int(one.codes.codes[row])
        found |= {f"{one.codes.name} code": np.array(code), f"{one.codes.name} columns": one.table[block, code]}
    for one in tables.pairs:
        users, items = one.block(block)
        found |= {f"{one.kind} user": users[data.user[row]], f"{one.kind} item": items[data.item[row]]}
    return found


@pytest.mark.parametrize("task", ["tiktok_like", "tiktok_finish", "wechat_click"])
def test_labels_of_later_rows_change_no_array(plus, task):
    inputs = load_step_inputs(plus, task)
    before = plus_factors(inputs, MODALITIES, plus.temp)
    after = plus_factors(relabelled(inputs, np.flatnonzero(inputs.data.split != TRAIN)), MODALITIES, plus.temp)
    one, two = every_array(before), every_array(after)
    of_items = "item x device codes" if task == "wechat_click" else "item x channel codes"
    assert one.keys() == two.keys() and {"user x device table", of_items, "recency"} <= one.keys()
    assert len(one) == 3 + 3 * len(before.plus.lookups) + 2 * len(before.plus.pairs) + 1
    for name, values in one.items():
        assert values.tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_a_training_rows_own_labels_change_none_of_its_inputs(plus, task):
    inputs = load_step_inputs(plus, task)
    before = plus_factors(inputs, MODALITIES, plus.temp)
    moved = set()
    for row in np.random.default_rng(1).choice(np.flatnonzero(inputs.data.split == TRAIN), 3, replace=False):
        after = plus_factors(relabelled(inputs, np.array([row])), MODALITIES, plus.temp)
        one, two = inputs_of_row(before, inputs, row), inputs_of_row(after, inputs, row)
        assert one.keys() == two.keys()
        for name, values in one.items():
            assert values.tobytes() == two[name].tobytes(), name
        moved |= {name for name, values in every_array(before).items() if (values != every_array(after)[name]).any()}
    assert {"user_part", "item_part", "user x device table", "label_svd user", "content_factors item"} <= moved


RAW = {
    "tiktok": ("dataset/TikTok2019ICME/track1/final_track1_train.txt", ("finish", "like")),
    "wechat": ("dataset/wechat/user_action.csv", None),
}
NOT_OUTCOMES = {"userid", "feedid", "date_", "device"}


def with_other_outcomes(dataset, folder, chosen):
    """Change the outcomes of the raw row with this user, item and time; returns the number of changed rows."""
    name, outcomes = RAW[dataset]
    delimiter = "\t" if dataset == "tiktok" else ","
    with (folder / name).open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    names = list(COLUMNS) if dataset == "tiktok" else rows[0]
    outcomes = outcomes or tuple(one for one in names if one not in NOT_OUTCOMES)
    keys = [
        names.index(key)
        for key in (("uid", "item_id", "time") if dataset == "tiktok" else ("userid", "feedid", "date_"))
    ]
    changed = 0
    for row in rows if dataset == "tiktok" else rows[1:]:
        if tuple(int(row[key]) for key in keys) == chosen:
            for one in outcomes:
                cell = int(row[names.index(one)])
                row[names.index(one)] = str(1 - cell if cell in (0, 1) else cell + 7)
            changed += 1
    (folder / name).write_text("".join(delimiter.join(row) + "\n" for row in rows))
    return changed


@pytest.mark.parametrize(("dataset", "task"), [("tiktok", "tiktok_like"), ("wechat", "wechat_click")])
def test_a_rows_own_outcomes_in_the_raw_file_change_none_of_its_inputs(plus, raw_copy, dataset, task):
    """Steps 1 to 4 from the raw file: the row's codes, numbers, recency, table rows and vectors stay the same."""
    inputs = load_step_inputs(plus, task)
    data = inputs.data
    keys = np.stack([data.user_ids[data.user], data.item_ids[data.item], np.floor(data.time).astype(np.int64)], axis=1)
    train = np.flatnonzero(data.split == TRAIN)
    unique = [row for row in train[100:140] if (keys == keys[row]).all(axis=1).sum() == 1]
    row = unique[0]
    assert with_other_outcomes(dataset, raw_copy, tuple(keys[row].tolist())) >= 1
    prepare(raw_copy / "path.json")
    again = load_step_inputs(load_paths(raw_copy / "path.json"), task)
    assert (again.data.user == data.user).all() and (again.data.item == data.item).all()
    targets = [name for name in data.artifact.array_names if name.startswith("label_")]
    assert any(again.data.artifact.array(name)[row] != data.artifact.array(name)[row] for name in targets)
    for name in data.artifact.array_names:
        if not name.startswith("label_"):
            assert data.artifact.array(name).tobytes() == again.data.artifact.array(name).tobytes(), name
    one = inputs_of_row(plus_factors(inputs, MODALITIES, plus.temp), inputs, row)
    two = inputs_of_row(plus_factors(again, MODALITIES, plus.temp), again, row)
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert values.tobytes() == two[name].tobytes(), name


def test_inputs_contain_no_label(plus):
    """Columns, bins, hours and recency do not depend on the labels."""
    inputs = load_step_inputs(plus, "tiktok_like")
    one, two = log_inputs(inputs.data), log_inputs(relabelled(inputs, np.arange(len(inputs.data))).data)
    assert one.context.keys() == two.context.keys() == {"channel", "device", "hour", "weekday"} & one.context.keys()
    assert all(one.context[name].tobytes() == two.context[name].tobytes() for name in one.context)
    assert one.recency.tobytes() == two.recency.tobytes()
    for side in ("user", "item"):
        mine, theirs = getattr(one, side), getattr(two, side)
        assert all((mine.categories[name] == theirs.categories[name]).all() for name in mine.categories)
        assert (mine.numbers == theirs.numbers).all()


@pytest.mark.parametrize("group", ["user-columns", "item-columns", "context", "recency"])
def test_inputs_without_a_group(plus, group):
    data = load_step_inputs(plus, "tiktok_like").data
    whole, left = log_inputs(data), log_inputs(data, group)
    same = {
        "user-columns": not left.user.categories and whole.user.categories,
        "item-columns": not left.item.categories and left.item.numbers.shape == (len(data.item_ids), 0),
        "context": not left.context and not left.paired and whole.paired,
        "recency": left.recency.shape == (len(data), 0) and whole.recency.shape == (len(data), 3),
    }
    assert same[group]
    rest = {
        "user-columns": left.user.categories.keys() == whole.user.categories.keys(),
        "item-columns": left.item.categories.keys() == whole.item.categories.keys(),
        "context": left.context.keys() == whole.context.keys(),
        "recency": left.recency.shape == whole.recency.shape,
    }
    assert [name for name, stays in rest.items() if not stays] == [group]


def test_a_side_without_columns_has_no_inputs():
    empty = side_inputs([], 5, "user")
    assert empty.numbers.shape == (5, 0) and not empty.categories and not empty.rated


# The gather and prediction


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_gathered_rows_equal_a_plain_gather(plus, task):
    """Compare with scaled tables looked up row by row in numpy, in the order of the manifest's columns."""
    inputs = load_step_inputs(plus, task)
    matrix, artifact = load_matrix(plus, task, VARIANT, CPU), read_artifact(plus.matrix / task / VARIANT, "")
    data, block = inputs.data, inputs.embedding.array("block").astype(np.int64)
    assert len(artifact.manifest["columns"]) == matrix.in_features and len(matrix.lookups) > 0
    shift = artifact.array("row_shift") / artifact.array("row_scale")
    for group in (matrix.train, matrix.valid, matrix.test):
        chosen = np.array([0, 5, len(group) // 2, len(group) - 1])
        made = group.features(matrix, torch.from_numpy(chosen)).numpy()
        buffer = torch.full((9, matrix.in_features), 7.0)
        assert (group.features(matrix, chosen, buffer).numpy() == made).all() and (buffer[4:] == 7).all()
        assert (group.features(matrix, slice(5, 6)).numpy() == made[1:2]).all()
        for place, row in enumerate(group.rows[chosen]):
            user = block[row] * len(data.user_ids) + data.user[row]
            item = block[row] * len(data.item_ids) + data.item[row]
            parts = [artifact.array("user_part")[user], artifact.array("item_part")[item]]
            for number, entry in enumerate(artifact.manifest["lookups"]):
                code = int(artifact.array(f"lookup_codes_{number}")[row])
                assert 0 <= code < entry["size"]
                parts.append(artifact.array(f"lookup_table_{number}")[block[row] * entry["size"] + code])
            if "recency" in artifact.array_names:
                parts.append(artifact.array("recency")[row].astype(np.float32))
            first = sum(map(len, parts[2:]))
            for kind in artifact.manifest["pairs"]:
                users, items = artifact.array(f"{kind}_user_vectors"), artifact.array(f"{kind}_item_vectors")
                columns = users[user] @ items[item % len(items)]
                parts.append(columns - shift[first : first + len(columns)])
                first += len(columns)
            assert first == len(shift)
            assert np.allclose(made[place], np.concatenate(parts), atol=1e-4)


@pytest.mark.parametrize("task", ["tiktok_finish", "wechat_click"])
def test_lookups_in_the_matrix_are_the_codes_and_keys_of_the_tables(plus, task):
    inputs = load_step_inputs(plus, task)
    artifact = read_artifact(plus.matrix / task / VARIANT, "")
    for number, entry in enumerate(artifact.manifest["lookups"]):
        codes = artifact.array(f"lookup_codes_{number}").astype(np.int64)
        side, category = entry["side"], entry["category"]
        if not side:
            continue
        columns = log_inputs(inputs.data)
        of_item = columns.item.categories[category][inputs.data.item] if entry["of"] == "item" else None
        context = (columns.context[category] if of_item is None else of_item).astype(np.int64)
        keys = artifact.array(f"lookup_keys_{number}")
        assert entry["size"] == len(keys) + 1 and (codes > 0).all()
        entity = getattr(inputs.data, side).astype(np.int64)
        assert (keys[codes - 1] == entity * entry["categories"] + context).all()


@pytest.mark.parametrize("most", [inference.MOST_FIRST_LAYERS, 0])
@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_predicting_in_parts_equals_the_whole_network(plus, monkeypatch, task, most):
    """One and several networks, all and some rows of a group, in chunks smaller than the group."""
    monkeypatch.setattr(inference, "MOST_FIRST_LAYERS", most)
    monkeypatch.setattr(inference, "ROWS_ON_CPU", 500)
    matrix = load_matrix(plus, task, VARIANT, CPU)
    states = [initial_weights(matrix.in_features, 0.1, seed) for seed in range(3)]
    several = Network({name: torch.stack([one[name] for one in states]) for name in states[0]})
    for group in (matrix.test, matrix.train):
        whole = group.features(matrix, slice(None))
        with torch.no_grad():
            expected = [mlp_module(state)(whole) for state in states]
        assert torch.allclose(predict(Network(states[0]), matrix, group)[0], expected[0], atol=1e-5)
        assert torch.allclose(predict(several, matrix, group)[0], torch.stack(expected).mean(dim=0), atol=1e-5)
        # Rows of blocks far apart, whose users are not a range.
        few = np.random.default_rng(0).choice(len(group), 7, replace=False)
        chosen = replace(group, rows=group.rows[few], label=group.label[few], **vars(group.chosen(few)))
        assert torch.allclose(predict(Network(states[0]), matrix, chosen)[0], expected[0][few], atol=1e-5)
