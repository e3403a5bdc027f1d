"""The log law: each effect is in the labels, in the columns and in the truth."""

import csv
from functools import cache

import numpy as np
import pytest
from scipy.special import expit

from mma4ctr.evaluation.metrics import auc
from mma4ctr.simulation import __main__ as command
from mma4ctr.simulation import tiktok, wechat
from mma4ctr.simulation.law import LATE, QUALITY_SPREAD, STRENGTHS, Strength, draw_exposures, logits, make_world
from mma4ctr.simulation.log_items import SONGS_OF_SINGER, UNKNOWN
from mma4ctr.simulation.log_law import HALF_LIFE, HOUR_CURVE, KNOTS, Impressions
from tests.conftest import ROOT, call

ROWS = 300_000
TASKS = ("tiktok_finish", "tiktok_like", "wechat_read_comment")
# What the labels of a task are known not to depend on: WeChat's log has days, but no hours.
ABSENT = {("wechat_read_comment", "hour")}


@cache
def drawn(dataset, without=""):
    """A world of the log law without one of the effects, and its first rows."""
    module = {"tiktok": tiktok, "wechat": wechat}[dataset]
    world = make_world(module.NEGATIVES_PER_POSITIVE, users=150, items=500, seed=4)
    made = tiktok.TikTokWorld(world, 4, "track1") if dataset == "tiktok" else wechat.WeChatWorld(world, 4)
    strengths = dict(STRENGTHS) | ({without: Strength(0.0, "left out by the test")} if without else {})
    made.use_log_law(module.NEGATIVES_PER_POSITIVE, strengths)
    return made, made.rows(0, 0, ROWS, ROWS)


def positions(ids, values):
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], values)]


def impressions(made, chunk):
    """The rows of the file as numbers of users and items, with their times."""
    columns, keys = chunk.columns, chunk.keys
    user, item = positions(made.user_ids, keys["user"]), positions(made.item_ids, keys["item"])
    if "date_" in columns:
        return Impressions(user, item, (columns["date_"] - 1) / (wechat.DAYS - 1), columns["device"] == 2)
    second = columns["time"] - tiktok.FIRST_TIME
    return Impressions(user, item, second / tiktok.SPAN, columns["channel"], columns["time"] // 3600 % 24)


def matches(law, rows):
    """The match of each row's item with the user's first and second interest."""
    world = law.world
    first = world.user_factors[rows.user] + world.drift[rows.user] * (rows.t - 0.5)[:, None]
    of_item = world.item_factors[rows.item]
    return (first * of_item).sum(axis=1), (law.second_factors[rows.user] * of_item).sum(axis=1)


def effects_of(made, rows):
    """The effects of rows, from their definitions: by name, float (rows,)."""
    law, items, user, item = made.law, made.law.items, rows.user, rows.item
    rates = tiktok.ITEM_RATES if isinstance(made, tiktok.TikTokWorld) else wechat.ITEM_RATES
    first, second = matches(law, rows)
    knots = np.linspace(0, 1, KNOTS)
    level = np.empty(len(user))
    for one in np.unique(user):
        level[user == one] = np.interp(rows.t[user == one], knots, law.levels[one])
    song = items.song[item]
    return {
        "quality": law.world.quality[item] / QUALITY_SPREAD,
        "author": law.of_author[items.author[item]],
        "music": np.where(song == UNKNOWN, 0, law.of_song[song]),
        "duration": (np.log(items.seconds[item]) - rates.log_seconds) / rates.log_seconds_spread,
        "channel": np.asarray(rows.channel, float),
        "hour": np.zeros(len(user)) if rows.hour is None else HOUR_CURVE[rows.hour],
        "freshness": 0.5 ** (np.maximum(rows.t - items.first_shown[item], 0) / HALF_LIFE),
        "drift": level,
        "loyalty": np.array([a in law.favourites[u] for u, a in zip(user, items.author[item], strict=True)], float),
        "interests": np.maximum(0, second - first),
    }


def score(effect, label, probability):
    """Score test: how far labels and effect go together, in standard deviations, and the information of the rows."""
    variance = probability * (1 - probability)
    centred = effect - np.average(effect, weights=variance)
    information = np.sum(variance * centred**2)
    return np.sum((label - probability) * centred) / np.sqrt(information), information


@pytest.mark.parametrize("effect", STRENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_an_effect_is_in_the_labels_unless_its_strength_is_zero(task, effect):
    dataset, target = task.split("_", 1)
    _, with_it = drawn(dataset)
    _, without_it = drawn(dataset, effect)
    assert (with_it.keys["user"] == without_it.keys["user"]).all(), "both worlds show the same"
    if (task, effect) in ABSENT:
        assert (with_it.columns[target] == without_it.columns[target]).all()
        return
    values = effects_of_rows(dataset)[effect]
    probability, strength = without_it.probability[target], STRENGTHS[effect].of(target)
    found, information = score(values, without_it.columns[target], probability)
    assert abs(found) < 4, "without the effect"
    found, _ = score(values, with_it.columns[target], probability)
    expected = strength * np.sqrt(information)
    # 1 label in 62 is a like, too few to show every effect.
    if target != "like" or abs(expected) > 6:
        assert abs(expected) > 6 and found / expected > 0.5
    found, _ = score(values, with_it.columns[target], with_it.probability[target])
    assert abs(found) < 4, "the truth contains the effect"


@cache
def effects_of_rows(dataset):
    made, chunk = drawn(dataset)
    return effects_of(made, impressions(made, chunk))


@pytest.mark.parametrize(
    ("effect", "column"),
    [("author", "author_id"), ("music", "music_id"), ("duration", "duration_time"), ("channel", "channel")],
)
def test_the_labels_differ_between_the_values_of_a_raw_column(effect, column):
    _, with_it = drawn("tiktok")
    _, without_it = drawn("tiktok", effect)
    probability = without_it.probability["finish"]
    for chunk, depends in ((with_it, True), (without_it, False)):
        value = chunk.columns[column].astype(int) + 1
        variance = np.bincount(value, probability * (1 - probability))
        sums = np.bincount(value, chunk.columns["finish"] - probability)
        known = variance > 2
        chi_square, count = np.sum(sums[known] ** 2 / variance[known]), np.count_nonzero(known)
        assert ((chi_square - count) / np.sqrt(2 * count) > 5) == depends


@pytest.mark.parametrize("dataset", ["tiktok", "wechat"])
def test_logits_equal_the_formula(dataset):
    made, chunk = drawn(dataset)
    law, rows, effects = made.law, impressions(made, chunk), effects_of_rows(dataset)
    assert set(effects) == set(STRENGTHS)
    found = law.logits(rows)
    for number, target in enumerate(law.world.targets):
        expected = law.world.user_bias[number, rows.user] + law.offset[number] + matches(law, rows)[0]
        expected = expected + sum(STRENGTHS[name].of(target) * values for name, values in effects.items())
        assert np.abs(found[number] - expected).max() < 1e-4, target
    some = slice(1000, 1010)
    part = Impressions(*(None if one is None else one[some] for one in vars(rows).values()))
    assert (law.logits(part) == found[:, some]).all(), "a block of rows does not change its rows"


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_is_better_than_the_part_that_depends_on_content(task):
    dataset, target = task.split("_", 1)
    made, chunk = drawn(dataset)
    rows = impressions(made, chunk)
    content = expit(logits(made.world, rows.user, rows.item, rows.t))[made.world.targets.index(target)]
    label = chunk.columns[target]
    assert auc(label, chunk.probability[target]) > auc(label, content) + 0.01


@pytest.mark.parametrize("dataset", ["tiktok", "wechat"])
def test_rates_users_and_items_are_those_of_the_content_law(dataset):
    module = {"tiktok": tiktok, "wechat": wechat}[dataset]
    made, chunk = drawn(dataset)
    for target, ratio in module.NEGATIVES_PER_POSITIVE.items():
        assert chunk.probability[target].mean() == pytest.approx(1 / (1 + ratio), rel=0.05), target
    plain = wechat.WeChatWorld(made.world, 4) if dataset == "wechat" else tiktok.TikTokWorld(made.world, 4, "track1")
    other = plain.rows(0, 0, ROWS, ROWS)
    user, item = draw_exposures(made.world, np.linspace(0, 1, 10), np.random.default_rng(0))
    assert user.max() < 150 and item.max() < 500
    for key in ("user", "item"):
        here, there = (np.sort(np.unique(one.keys[key], return_counts=True)[1]) for one in (chunk, other))
        assert len(here) == pytest.approx(len(there), rel=0.02)
        assert here[-10:].mean() == pytest.approx(there[-10:].mean(), rel=0.05)


def test_rows_with_the_same_keys_have_the_same_probability():
    for dataset in ("tiktok", "wechat"):
        _, chunk = drawn(dataset)
        keys = np.stack(list(chunk.keys.values()))
        _, which, sizes = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        assert sizes.max() > 1
        for values in chunk.probability.values():
            lowest, highest = np.full(len(sizes), 2.0), np.full(len(sizes), -1.0)
            np.minimum.at(lowest, which.ravel(), values)
            np.maximum.at(highest, which.ravel(), values)
            assert (highest - lowest).max() < 1e-6


def test_an_item_has_one_author_song_and_duration_in_all_files(tmp_path):
    made, chunk = drawn("tiktok")
    item = impressions(made, chunk).item
    items = made.law.items
    for column, values in (("author_id", items.author), ("music_id", items.song), ("duration_time", items.seconds)):
        assert (chunk.columns[column] == values[item]).all()
    assert 0.05 < np.mean(items.song == UNKNOWN) < 0.15
    assert (items.first_shown[made.world.late] == np.float32(1 - LATE)).all()

    made, _ = drawn("wechat")
    assert made.write_features(tmp_path) > 500
    with (tmp_path / "feed_info.csv").open() as file:
        info = {int(row["feedid"]): row for row in csv.DictReader(file)}
    items = made.law.items
    shown = [number for number in range(500) if made.item_ids[number] in info]
    assert len(shown) > 480
    for number in shown:
        row = info[made.item_ids[number]]
        assert int(row["authorid"]) == items.author[number]
        assert int(row["videoplayseconds"]) == items.seconds[number] == made.seconds[number]
        song = items.song[number]
        known = [("bgm_song_id", song), ("bgm_singer_id", song // SONGS_OF_SINGER)]
        for name, value in known:
            assert row[name].removesuffix(".0") == ("" if song == UNKNOWN else str(value))


def test_an_unknown_law_is_one_line(tmp_path, capsys):
    assert call(command.main, tmp_path, "--law", "gravity") == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and "gravity" in printed[0] and "content" in printed[0]
    assert not list(tmp_path.iterdir())


def test_the_page_lists_every_effect_with_its_strengths():
    page = (ROOT / "docs/method.md").read_text()
    for effect, strength in STRENGTHS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {effect} | ")]
        finish, like, others = [cell.strip() for cell in row.strip("| ").split("|")][-3:]
        assert float(finish) == strength.of("finish") and float(like) == strength.of("like"), effect
        if effect != "hour":  # WeChat has none
            own = [f"`{name}` {value:g}" for name, value in strength.targets.items() if name not in ("finish", "like")]
            assert others == ", ".join([f"{strength.usual:g}", *own]), effect
