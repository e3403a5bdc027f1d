"""Described data sets: equal results from every format, ids of any kind, variants of any modalities, wrong input."""

import csv
import gzip
import json
import shutil
import tomllib
import uuid

import comp
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import statis_and_draw
import viewer
from mma4ctr.data import row_order
from mma4ctr.data.interactions import load_interactions
from mma4ctr.data.log_columns import SIDES, stored_columns
from mma4ctr.data.negative_sampling import by_first_split, draw_unseen
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.datasets import known_datasets, split_task
from mma4ctr.datasets.columns import NameTable, hash_text, ids_of, parse_rule, tokens_of
from mma4ctr.datasets.toml_spec import READY
from mma4ctr.evaluation import __main__ as results
from mma4ctr.evaluation import leaderboard
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import STUDIES, cases_of
from mma4ctr.evaluation.study_cells import prepared_inputs
from mma4ctr.evaluation.study_layouts import protocol_line
from mma4ctr.features.variants import STUDY, variants_for, variants_of
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import OUTPUTS, ROOT, call, write_described

REAL = ROOT.parent / "shared/data/tiktok-real/track1"
MOVIELENS = list((ROOT / ".venv-baseline").glob("lib/*/site-packages/recbole/dataset_example/ml-100k"))
USERS, ITEMS, ROWS, WIDTH = 30, 40, 1500, 6
ARRAYS = ("column", "values", "texts")  # of each column beside content


def draw_world(seed=0):
    """A small log and the features of its items: columns by name, all with whole numbers for ids."""
    rng = np.random.default_rng(seed)
    log = {"user": rng.integers(0, USERS, ROWS), "item": rng.integers(0, ITEMS, ROWS)}
    log |= {"rating": rng.integers(1, 6, ROWS), "time": rng.permutation(ROWS) + 10**9}
    items = {"id": np.arange(ITEMS), "vector": rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)}
    words = np.array(["cat", "dog", "Bird", "fish", "cow", "ant", "bee"])
    items["title"] = [" ".join(rng.choice(words, 3)) for _ in range(ITEMS)]
    return log, items


def write_log(folder, log, kind, name="log"):
    columns = {key: [str(v) if isinstance(v, str) else int(v) for v in values] for key, values in log.items()}
    rows = list(zip(*columns.values(), strict=True))
    if kind == "parquet":
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=400)
    elif kind == "jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    else:
        text = (
            "\n".join(("," if kind.startswith("csv") else "\t").join(map(str, row)) for row in [columns, *rows]) + "\n"
        )
        if kind.endswith(".gz"):
            (folder / f"{name}.{kind}").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.{kind}").write_text(text)


def write_features(folder, items):
    """The same vectors as an array with ids, as lists of Parquet and JSON lines, and as CSV columns; titles as CSV."""
    ids = [v if isinstance(v, str) else int(v) for v in items["id"]]
    vectors = items["vector"]
    np.save(folder / "array.npy", vectors)
    (folder / "array.txt").write_text("".join(f"{one}\n" for one in ids))
    pq.write_table(pa.table({"id": ids, "v": list(vectors)}), folder / "lists.parquet")
    lines = (json.dumps({"id": one, "v": [float(x) for x in row]}) for one, row in zip(ids, vectors, strict=True))
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n")
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "title", "cell", *(f"x{k}" for k in range(WIDTH))])
        for one, title, row in zip(ids, items["title"], vectors, strict=True):
            writer.writerow([one, title, " ".join(map(str, row)), *row])


INTERACTIONS = """
min_interactions = 5
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
[targets]
like = "rating >= 4"
"""
SOURCES = {
    "array": 'vectors = "array.npy"\nids = "array.txt"\n',
    "lists": 'files = "lists.parquet"\nitem = "id"\nvector = "v"\n',
    "json": 'files = "lines.jsonl"\nitem = "id"\nvector = "v"\n',
    "columns": 'files = "items.csv"\nitem = "id"\nvector = "x*"\n',
    "cells": 'files = "items.csv"\nitem = "id"\nvector = "cell"\n',
    "title": 'files = "items.csv"\nitem = "id"\ntext = "title"\nwidth = 5\n',
}


def described(*modalities, interactions=INTERACTIONS):
    return interactions + "".join(f"[modalities.{name}]\n{SOURCES[name]}" for name in modalities)


def write_paths(folder, text, name="mine"):
    (folder / "mine.toml").write_text(text)
    return write_described(folder, {name: "mine.toml"})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The small world in every format, read-only."""
    folder = tmp_path_factory.mktemp("own")
    log, items = draw_world()
    for kind in ("csv", "tsv", "csv.gz", "jsonl", "parquet"):
        write_log(folder, log, kind)
    write_features(folder, items)
    return folder


@pytest.fixture
def folder(files, tmp_path):
    """A copy of the small world that the test may change."""
    shutil.copytree(files, tmp_path / "own")
    return tmp_path / "own"


def steps(paths, *mains):
    for main in mains:
        assert call(main.main, "--paths", paths) == 0, main.__name__
    return load_paths(paths)


def refused(paths, main, capsys, *options):
    """Run a step that must fail, and return its error line."""
    capsys.readouterr()
    assert call(main.main, "--paths", paths, *options) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("error:") == 1, error
    return error


def checked(paths, capsys):
    """Return the exit code and the output of the check."""
    capsys.readouterr()
    code = call(datasets_main.main, "check", paths)
    output = capsys.readouterr()
    return code, output.out, output.err


# The same from every format


def graph_of(folder, text):
    paths = steps(write_paths(folder, text), preprocess_inter)
    artifact = read_artifact(paths.graph / "mine", "")
    return {name: artifact.array(name) for name in sorted(artifact.array_names)}


def test_every_format_gives_the_same_rows(folder):
    log, _ = draw_world()
    whole = graph_of(folder, described("array"))
    assert np.array_equal(whole["user_ids"], np.unique(log["user"])) and len(whole["user"]) == ROWS
    order = np.lexsort((log["time"], log["user"]))
    assert np.array_equal(whole["label_like"], (log["rating"] >= 4)[order])
    assert np.array_equal(whole["item"], log["item"][order])
    for kind in ("tsv", "csv.gz", "jsonl", "parquet"):
        found = graph_of(folder, described("array").replace('"log.csv"', f'"log.{kind}"'))
        assert found.keys() == whole.keys()
        for name, values in whole.items():
            assert np.array_equal(found[name], values), (kind, name)


def test_several_files_and_globs_are_one_log(folder):
    whole = graph_of(folder, described("array"))
    lines = (folder / "log.csv").read_text().splitlines()
    for part in range(12):  # part 10 comes after part 9
        text = "\n".join([lines[0], *lines[1 + part * 125 : 1 + (part + 1) * 125]])
        (folder / f"part{part}.csv").write_text(text + "\n")
    found = graph_of(folder, described("array").replace('"log.csv"', '"part*.csv"').replace('time = "time"\n', ""))
    log, _ = draw_world()
    order = np.argsort(log["user"], kind="stable")  # without a time the order of the files is the time
    assert np.array_equal(found["item"], log["item"][order])
    assert np.array_equal(found["time"], np.arange(ROWS)[order])
    again = graph_of(folder, described("array").replace('"log.csv"', '["part?.csv", "part??.csv"]'))
    assert all(np.array_equal(again[name], values) for name, values in whole.items())


def test_every_source_of_vectors_gives_the_same_features(files, tmp_path):
    shutil.copytree(files, tmp_path / "own")
    dense = [name for name in SOURCES if name != "title"]
    paths = steps(write_paths(tmp_path / "own", described(*dense)), preprocess_inter, preprocess_multimodal)
    modal = read_artifact(paths.modal / "mine", "")
    _, items = draw_world()
    for name in dense:
        assert np.array_equal(modal.array(name), items["vector"]), name


# Ids


def test_ids_of_every_kind():
    numbers = ids_of(pa.array(["1", "-5", str(2**63 - 1), str(1 - 2**63)]), "id")
    assert numbers.values.tolist() == [1, -5, 2**63 - 1, 1 - 2**63] and not len(numbers.named)
    written = ["7", "007", "-0", "+1", "1.0", "0x10", str(2**63), "film", str(uuid.UUID(int=5)), "ü", "1e3"]
    words = ids_of(pa.array(written), "id")
    assert words.values[0] == 7 and words.named.tolist() == list(range(1, len(written)))
    assert len(set(words.values.tolist())) == len(written) and words.shown().to_pylist() == written
    assert ids_of(pa.array([7, 2**63], pa.uint64()), "id").values.tolist() == words.values[[0, 6]].tolist()
    assert ids_of(pa.array([7.0, -2.0]), "id").values.tolist() == [7, -2]
    assert ids_of(pa.array([uuid.UUID(int=5).bytes], pa.binary(16)), "id").values[0] == words.values[8]
    assert ids_of(pa.array(["film", "film"]).dictionary_encode(), "id").values.tolist() == [words.values[7]] * 2


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=1))
def test_a_hash_is_a_function_of_the_text_alone(texts):
    array = pa.array(texts, pa.string())
    whole = hash_text(array)
    assert len(set(whole.tolist())) == len(set(texts))
    assert [hash_text(array.slice(row, 1))[0] for row in range(len(texts))] == whole.tolist()


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1))
def test_whole_numbers_of_any_size_keep_apart(numbers):
    ids = ids_of(pa.array([str(number) for number in numbers]), "id")
    assert len(set(ids.values.tolist())) == len(set(numbers))
    fits = [number for number in numbers if -(2**63) < number < 2**63]
    assert set(fits) <= set(ids.values.tolist())
    assert ids.shown().to_pylist() == [str(number) for number in numbers]


def test_names_are_found_again():
    ids = ids_of(pa.array(["b", "5", "a", "b"]), "id")
    table = NameTable()
    table.add(ids.values[ids.named], ids.text)
    kinds = np.unique(ids.values)
    assert sorted(table.names(kinds)) == [b"5", b"a", b"b"]
    assert NameTable().names(np.array([1, 2])) is None


@pytest.mark.parametrize("spelled", ["uuid", "words", "negative", "large"])
def test_ids_as_they_are_written_run_through_and_are_shown(tmp_path, spelled):
    """Apart from the order of ids, the rows equal those with whole numbers as ids."""
    spell = {
        "uuid": lambda n: str(uuid.uuid5(uuid.NAMESPACE_DNS, str(n))),
        "words": lambda n: f"film {n}" if n % 3 else str(n),
        "negative": lambda n: int(n) - 20,
        "large": lambda n: str(int(n) + 2**63) if n % 2 else str(int(n) + 2**53),
    }[spelled]
    log, items = draw_world()
    log = log | {"user": [spell(n) for n in log["user"]], "item": [spell(n) for n in log["item"]]}
    write_log(tmp_path, log, "csv")
    write_features(tmp_path, items | {"id": [spell(n) for n in items["id"]]})
    paths = write_paths(tmp_path, described("array", "lists", "json", "title"))
    paths = steps(paths, preprocess_inter, preprocess_multimodal)
    data = load_interactions(paths, "mine")
    assert sorted(map(str, data.user_names)) == sorted({str(v) for v in log["user"]})
    shown = sorted(zip(data.user_names[data.user].astype(str), data.item_names[data.item].astype(str), strict=True))
    assert shown == sorted((str(u), str(i)) for u, i in zip(log["user"], log["item"], strict=True))
    rows = [line.split("\t")[:2] for part in ("train", "valid", "test")
            for line in (paths.graph / f"mine/mine.{part}.inter").read_text().splitlines()[1:]]  # fmt: skip
    assert sorted(map(tuple, rows)) == shown
    modal = read_artifact(paths.modal / "mine", "")
    vector = dict(zip([str(spell(n)) for n in items["id"]], items["vector"], strict=True))
    for name in ("array", "lists", "json"):
        assert np.array_equal(modal.array(name), [vector[str(n)] for n in data.item_names])
    assert modal.array("title_present").all()


# Tokens, rules, times


def test_words_and_tokens():
    def found(texts, **how):
        row, token = tokens_of(pa.array(texts), "text", **how)
        return [sorted(token[row == one].tolist()) for one in range(len(texts))]

    same = found(["The cat, the CAT!", "the the cat cat", None, ""], words=True)
    assert same[0] == same[1] and len(same[0]) == 4 and same[2:] == [[], []]
    assert found(["Cat cat"], words=False)[0] != found(["cat cat"], words=False)[0]
    assert found([[3, 4], [], None, [3]], words=False) == [[3, 4], [], [], [3]]
    assert found(["3 4"], words=False) == [[3, 4]]
    assert len(found(["我爱猫 cats"], words=True)[0]) == 4, "text without spaces: a word for each character"


def test_rules():
    assert str(parse_rule("rating:float >= 4")) == "rating:float >= 4" and parse_rule("like").compare == ""
    column = pa.array(["1", "4", "4.5"])
    for rule, label in (("r >= 4", [0, 1, 1]), ("r<4", [1, 0, 0]), ("r != 4", [1, 0, 1]), ("r == 4.0", [0, 1, 0])):
        assert parse_rule(rule).label(column).tolist() == label
    assert parse_rule("r > -1e1").number == -10
    for wrong in ("rating >= four", "rating => 4", "__import__('os') > x", "a > 1 > 2 >"):
        with pytest.raises(ValueError, match="not a rule"):
            parse_rule(wrong)


@pytest.mark.parametrize("kind", ["date", "number"])
def test_times_as_dates_and_with_decimals(folder, kind):
    log, _ = draw_world()
    spell = {"date": lambda t: str(np.datetime64(int(t), "s")), "number": lambda t: f"{t / 2:.1f}"}[kind]
    write_log(folder, log | {"time": [spell(t) for t in log["time"]]}, "csv")
    found = graph_of(folder, described("array"))
    whole = (log["time"] * {"date": 10**6, "number": 5 * 10**5}[kind])[np.lexsort((log["time"], log["user"]))]
    assert np.array_equal(found["time"], whole)


def test_devices_are_numbered_as_they_appear(folder):
    log, _ = draw_world()
    write_log(folder, log | {"phone": ["old" if t % 2 else "new" for t in log["time"]]}, "csv")
    found = graph_of(folder, described("array").replace('time = "time"', 'time = "time"\ndevice = "phone"'))
    first = int(log["time"][0] % 2)
    assert np.array_equal(found["device"], (found["time"] % 2) != first)


# Negatives


def test_negatives_are_unseen_and_known_by_then():
    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, 20, 600))
    item = rng.integers(0, 80, 600)
    split = np.where(rng.random(600) < 0.8, 0, rng.integers(1, 3, 600)).astype(np.uint8)
    kinds, item = np.unique(item, return_inverse=True)
    known = by_first_split(item, split, len(kinds))
    row, drawn = draw_unseen(user, item, split, known, 3, np.random.default_rng(1))
    met = set(zip(user.tolist(), item.tolist(), strict=True))
    pairs = list(zip(user[row].tolist(), drawn.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) and not set(pairs) & met
    assert np.array_equal(row, np.sort(row)) and np.bincount(row, minlength=600).max() == 3
    first = np.array([split[item == one].min() for one in range(len(kinds))])
    assert (first[drawn] <= split[row]).all()
    free = [len(kinds) - len({i for u, i in met if u == one}) for one in range(20)]
    wanted = [min(3 * int((user == one).sum()), free[one]) for one in range(20)]
    assert all(np.sum(user[row] == one) <= most for one, most in enumerate(wanted))
    everything = draw_unseen(user, item, np.zeros(600, np.uint8), by_first_split(item, 0 * split, len(kinds)), 50, rng)
    assert np.bincount(user[everything[0]], minlength=20).tolist() == free, "who has met much gets what is left"


def test_every_protocol_names_drawn_negatives(folder, monkeypatch, capsys):
    text = described("array", "title").replace("rating >= 4", "").replace('like = ""', "seen = true")
    text = text.replace("min_interactions = 5", "min_interactions = 5\nnegatives = 1")
    log, _ = draw_world()
    _, once = np.unique(np.stack([log["user"], log["item"]]), axis=1, return_index=True)
    few = np.sort(once[::2])
    write_log(folder, {name: values[few] for name, values in log.items()}, "csv")
    whole = graph_of(folder, text)
    positive = whole["label_seen"] > 0
    pairs = whole["user"].astype(int) * 1000 + whole["item"]
    assert positive.sum() == len(few) and len(np.unique(pairs)) == len(pairs)
    for name in ("user", "time", "split"):
        assert np.array_equal(np.unique(whole[name][~positive]), np.unique(whole[name][positive])), name
    again = graph_of(folder, text)
    monkeypatch.setattr("mma4ctr.data.negative_sampling.PARTITION_ROWS", 100)
    monkeypatch.setattr(row_order, "PARTITION_ROWS", 100)
    parts = graph_of(folder, text)
    assert all(np.array_equal(again[name], values) for name, values in whole.items()), "seeded"
    assert np.array_equal(np.bincount(parts["label_seen"]), np.bincount(whole["label_seen"]))
    paths = steps(folder / "path.json", preprocess_multimodal, get_user_embedding, cross_matrix)
    assert call(mlp.main, "--paths", paths.file, "--epochs", 1) == 0
    (result,) = read_results(paths.results)
    assert result.protocol["negatives"] == 1
    assert "1 negative drawn for each positive" in protocol_line([result])
    capsys.readouterr()
    assert call(results.main, "--paths", paths.file) == 0
    assert "1 negative drawn" in capsys.readouterr().out


# The comparison


def compare(folder, capsys, *models):
    """Results of baselines on a log whose ids are numbers and words."""
    log, items = draw_world()
    spelled = {n: f"film {n}" if n % 3 else n for n in range(ITEMS)}
    write_log(folder, log | {"item": [spelled[n] for n in log["item"]]}, "csv")
    write_features(folder, items | {"id": list(map(str, spelled.values()))})
    paths = write_paths(folder, described("array", "title"))
    paths = steps(paths, preprocess_inter, preprocess_multimodal, get_user_embedding, cross_matrix)
    assert call(comp.main, "--paths", paths.file, "--models", *models, "--epochs", 1) == 0
    assert "Test results" in capsys.readouterr().out
    return {result.model: result.auc for result in read_results(paths.results)}


def test_baselines_take_described_data(tmp_path, capsys):
    assert set(compare(tmp_path, capsys, "bias model", "LightGBM")) == {"bias model", "LightGBM"}


@pytest.mark.recbole
def test_models_of_recbole_take_described_data(tmp_path, capsys):
    assert set(compare(tmp_path, capsys, "BPR", "DIN", "DCNV2")) == {"BPR", "DIN", "DCNV2"}


# Variants


def test_variants_follow_from_the_modalities():
    assert variants_of(("visual", "acoustic", "textual"), ("fused", "face")) == STUDY
    assert list(STUDY.all) == ["visual", "acoustic", "textual", "fused", "face", "va_concat", "vt_concat", "at_concat",
                               "vat_concat", "va_cross", "vt_cross", "at_cross", "vat_cross"]  # fmt: skip
    assert STUDY.default == "vat_concat" and STUDY.widest(["visual", "acoustic"]) == "va_concat"
    assert STUDY.widest(["visual"]) is None
    same = variants_of(("title", "tags"))
    assert list(same.concat) == ["title+tags_concat"] and same.default == "title+tags_concat"
    alone = variants_of(("title",))
    assert alone.default == "title" and not alone.mixed
    for count in range(1, 10):
        names = tuple(f"{chr(97 + n)}x" for n in range(count))
        made = variants_of(names)
        sizes = [len(parts) for parts in made.concat.values()]
        expected = [2] * (count * (count - 1) // 2) + [3] * (count * (count - 1) * (count - 2) // 6)
        assert sizes == expected + [count] * (count > 3) and len(made.single) == count
        assert set(made.all[made.default]) == set(names)


def test_seven_modalities_from_the_files_to_the_report(files, tmp_path, capsys, without_umap):
    """A description with more modalities needs no other change; the studies use its modalities."""
    shutil.copytree(files, tmp_path / "own")
    text = described(*SOURCES) + "[modalities.more]\n" + SOURCES["title"].replace("width = 5", "width = 3")
    paths = write_paths(tmp_path / "own", text)
    code, out, err = checked(paths, capsys)
    assert code == 0 and not err and out.count("modality ") == 7
    paths = steps(paths, preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix)
    assert call(cross_matrix.main, "--paths", paths.file, "--variant", "default", "cells+title+more_cross") == 0
    assert call(mlp.main, "--paths", paths.file, "--variant", "default", "more", "--epochs", 1) == 0
    assert {r.variant for r in read_results(paths.results)} == {"all_concat", "more"}
    steps(paths.file, statis_and_draw)
    assert call(viewer.main, "--paths", paths.file, "--points", 20) == 0
    assert prepared_inputs(paths, "mine_like").variant == "all_concat"
    known = variants_for(paths, "mine_like")
    assert len(cases_of(STUDIES["three-modal-cross"], known)) == 35
    assert len(cases_of(STUDIES["single-modal"], known)) == 7
    assert cases_of(STUDIES["epochs"], known) == STUDIES["epochs"].cases
    capsys.readouterr()
    assert call(mlp.main, "--paths", paths.file, "--variant", "al_concat") == 2
    assert "unknown variant 'al_concat'; did you mean 'all_concat'?" in capsys.readouterr().err


def test_one_modality_has_nothing_to_mix(folder, capsys):
    paths = steps(write_paths(folder, described("title")), preprocess_inter, preprocess_multimodal, get_user_embedding)
    steps(paths.file, gen_matrix, cross_matrix)
    assert "nothing to concatenate or cross" in capsys.readouterr().out
    assert call(mlp.main, "--paths", paths.file, "--epochs", 1) == 0
    assert [r.variant for r in read_results(paths.results)] == ["title"]
    # Features plus of one modality come from either script.
    written = []
    for script in (cross_matrix, gen_matrix):
        assert call(script.main, "--paths", paths.file, "--features", "plus") == 0
        written.append(read_artifact(paths.matrix / "mine_like" / "title.plus", "").fingerprint)
    assert written[0] == written[1]
    assert call(mlp.main, "--paths", paths.file, "--features", "plus", "--epochs", 1) == 0
    assert read_results(paths.results)[-1].variant == "title.plus"


# The ready descriptions


def test_ready_descriptions_are_listed_and_of_right_form(tmp_path, capsys):
    names = sorted(path.stem for path in READY.glob("*.toml"))
    assert {
        "movielens-100k",
        "tiktok-track1",
        "tiktok-arrays",
        "microlens-100k",
        "mm-ctr-2025",
        "kuaivideo-x1",
        "microvideo-1.7m-x1",
        "kuairand-pure",
    } == set(names)
    content = {"parent_folder": "."} | {key: key for key in OUTPUTS}
    content["datasets"] = {name: {"description": name, "folder": "."} for name in names}
    (tmp_path / "path.json").write_text(json.dumps(content))
    assert set(known_datasets(load_paths(tmp_path / "path.json"))) == set(names)
    content["datasets"] = {"x": {"description": "movielens"}}
    (tmp_path / "path.json").write_text(json.dumps(content))
    assert "did you mean 'movielens-100k'?" in refused(tmp_path / "path.json", preprocess_inter, capsys)


def ready_paths(folder, **datasets):
    return write_described(folder, datasets)


def write_microlens(folder, log, items):
    with (folder / "MicroLens-100k_pairs.csv").open("w") as file:
        file.write("user,item,timestamp\n")
        for user, item, time in zip(log["user"], log["item"], log["time"], strict=True):
            file.write(f"{user},{item},{time}\n")
    with (folder / "MicroLens-100k_title_en.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["item", "title"], *zip(items["id"], (f'"{t}", #1' for t in items["title"]), strict=True)])
    for stem in ("image", "audio"):
        np.save(folder / f"{stem}_features.npy", items["vector"])
        (folder / f"{stem}_ids.txt").write_text("".join(f"{one}\n" for one in items["id"]))
    return "comment", {"textual", "visual", "acoustic"}


def write_mm_ctr(folder, log, items):
    label = (log["rating"] > 3).astype(np.int64)
    history = pa.array([[0, int(items["id"][place % ITEMS])] for place in range(len(log["item"]))])  # 0 fills up
    rows = {"user_id": log["user"], "item_id": log["item"], "item_seq": history, "likes_level": label % 3}
    table = pa.table(rows | {"views_level": log["user"] % 4, "label": label})
    first, second = 8 * ROWS // 10, 9 * ROWS // 10
    pq.write_table(table.slice(0, first), folder / "train.parquet")
    pq.write_table(table.slice(first, second - first), folder / "valid.parquet")
    pq.write_table(table.slice(second).drop_columns("label"), folder / "test.parquet")
    tags = pa.FixedSizeListArray.from_arrays(np.arange(5 * ITEMS) % 7, 5)
    embedding = pa.FixedSizeListArray.from_arrays(items["vector"].ravel(), WIDTH)
    info = {"item_id": items["id"], "item_tags": tags, "item_emb_d128": embedding}
    pq.write_table(pa.table(info), folder / "item_info.parquet")
    return "click", {"tags", "embedding"}


def write_bars(folder, log, vectors, more):
    """Training and test rows as the two micro-video sets of BARS publish them."""
    order = np.argsort(log["time"])
    columns = {"user_id": log["user"], "item_id": log["item"], "is_click": (log["rating"] > 3).astype(int)}
    columns |= {"timestamp": log["time"], **more}
    columns = {name: np.asarray(values)[order].tolist() for name, values in columns.items()}
    for part, rows in (("train", slice(0, 8 * ROWS // 10)), ("test", slice(8 * ROWS // 10, None))):
        lines = zip(*(values[rows] for values in columns.values()), strict=True)
        text = [",".join(columns), *(",".join(map(str, line)) for line in lines)]
        (folder / f"{part}.csv").write_text("\n".join(text) + "\n")
    with h5py.File(folder / vectors[0], "w") as file:
        file["key"], file["value"] = np.arange(len(vectors[1])), vectors[1]
    return "click", {"visual"}


def write_kuaivideo(folder, log, items):
    history = ["^".join(str(one) for one in range(item % 4)) for item in log["item"]]
    more = {"is_like": log["rating"] % 2, "is_follow": log["rating"] // 5, "pos_items": history, "neg_items": history}
    return write_bars(folder, log, ("item_visual_emb_dim64.h5", items["vector"]), more)


def write_microvideo(folder, log, items):
    """Every test item is new, with a category that training rows have."""
    late = np.argsort(np.argsort(log["time"])) >= 8 * ROWS // 10
    log = log | {"item": log["item"] + ITEMS * late}
    history = ["3^1"] * ROWS
    more = {"cate_id": log["item"] % 5, "clicked_items": history, "clicked_categories": history}
    vectors = np.concatenate([items["vector"], items["vector"]])
    return write_bars(folder, log, ("item_image_emb_dim64.h5", vectors), more)


LOG_OF_KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
VIDEOS_OF_KUAIRAND = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
USERS_OF_KUAIRAND = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{place}" for place in range(18))
)


def write_kuairand(folder, log, items):
    """The files of KuaiRand-Pure: the log of two periods, one gzipped; videos with empty cells, floats and lists
    of tags; users with ranges as text.
    """
    rng = np.random.default_rng(0)
    rows = list(zip(*log.values(), strict=True))
    for part, period in enumerate(("4_08_to_4_21", "4_22_to_5_08")):
        lines = [",".join(f'"{name}"' for name in LOG_OF_KUAIRAND.split(","))]
        for user, item, rating, time in rows[part::2]:
            actions = [int(rating > 2), int(rating > 4), 0, 0, 0, 0, int(rating > 3)]
            row = [user, item, 20220408, 1200, time * 1000, *actions, 1184, 11933, 0, 0, 0, 0, rng.integers(0, 3)]
            lines.append(",".join(map(str, row)))
        text = ("\n".join(lines) + "\n").encode()
        name = f"log_standard_{period}_pure.csv"
        if part:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / name).write_bytes(text)
    with (folder / "video_features_basic_pure.csv").open("w") as file:
        file.write(VIDEOS_OF_KUAIRAND + "\n")
        for item in items["id"]:
            author, music, tag = 7349781 + item // 4, 9155697141 + item // 2, ("39", '"12,65"', "2", "")[item % 4]
            duration = "" if item % 7 == 3 else f"{87433 + item}.0"
            file.write(f"{item},{author},NORMAL,2022-04-10,LongImport,0.0,{duration},720.0,1280.0,{music},9.0,{tag}\n")
    with (folder / "user_features_pure.csv").open("w") as file:
        file.write(USERS_OF_KUAIRAND + "\n")
        for user in range(USERS):
            degree = ("full_active", "middle_active", "UNKNOWN")[user % 3]
            counts = f'{user},"(250,500]",{user + 1},"[1,5)",{user},"[30,60)",799,730+'
            codes = ",".join("" if user == 5 and place > 12 else f"{user % 4}.0" for place in range(18))
            file.write(f"{user},{degree},0,-124,1,{counts},{codes}\n")
    return "click", {"tags"}


def check_leaderboard(paths, capsys):
    """Ours stand among the published models: an honest run, and one that was selected on the test rows."""
    for main in (preprocess_multimodal, get_user_embedding, gen_matrix):
        assert call(main.main, "--paths", paths.file) == 0
    assert call(mlp.main, "--paths", paths.file, "--task", "own_click", "--epochs", 1) == 0
    capsys.readouterr()
    assert call(leaderboard.main, "--paths", paths.file) == 0
    assert "NOT COMPARABLE" in capsys.readouterr().out.replace("\n", " ")
    with (paths.saved / "tables/leaderboard_own_click.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 + 3 and [row["rank"] for row in rows] == [str(1 + place) for place in range(19)]
    assert [row["AUC"] for row in rows] == sorted((row["AUC"] for row in rows), reverse=True)
    ours = [row for row in rows if row["model"].startswith("MMa4CTR")]
    assert sorted(row["selected on"] for row in ours) == ["SELECTED ON TEST", *["validation rows"] * 2]
    assert {row["selected on"] for row in rows if row not in ours} == {"test"}
    assert call(viewer.main, "--paths", paths.file, "--points", 20) == 0
    report = (paths.saved / "report.html").read_text()
    assert "Leaderboards</h2>" in report and "AutoInt+" in report and 'class="leaky">SELECTED ON TEST' in report


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("microlens-100k", write_microlens),
        ("mm-ctr-2025", write_mm_ctr),
        ("kuairand-pure", write_kuairand),
        ("kuaivideo-x1", write_kuaivideo),
        ("microvideo-1.7m-x1", write_microvideo),
    ],
)
def test_ready_descriptions_on_files_of_their_shape(tmp_path, capsys, without_umap, name, write):
    log, items = draw_world()
    # Sparse, like a real log without negatives: for a user who has met all items none can be drawn.
    log = {key: values[: ROWS // 4] for key, values in log.items()} if write is write_microlens else log
    target, modalities = write(tmp_path, log, items)
    paths = ready_paths(tmp_path, own={"description": name, "folder": "."})
    code, _, err = checked(paths, capsys)
    assert code == 0 and not err
    paths = steps(paths, preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix, cross_matrix)
    assert set(read_artifact(paths.modal / "own", "").manifest["modalities"]) == modalities
    assert call(mlp.main, "--paths", paths.file, "--task", f"own_{target}", "--epochs", 1) == 0
    assert read_results(paths.results)[-1].task == f"own_{target}"
    given = paths.graph / "own"
    rows, split = read_artifact(given, "").manifest["rows"], read_artifact(given, "").settings["split"]
    if name == "mm-ctr-2025":
        data = load_interactions(paths, "own")
        first = {user: place for place, user in reversed(list(enumerate(data.user_ids[data.user].tolist())))}
        assert data.artifact.manifest["history"]["users"] == len(first) <= len(data.artifact.array("history_user"))
        assert call(cross_matrix.main, "--paths", paths.file, "--features", "plus") == 0
        assert call(mlp.main, "--paths", paths.file, "--features", "plus") == 0
        (matrix,) = (paths.matrix / "own_click").glob("*.plus")
        assert {"history", "history:user", "history:item"} <= set(read_artifact(matrix, "").manifest["columns"])
        assert call(mlp.main, "--paths", paths.file, "--run", "last", "--predict", "test") == 0
        (submission,) = (paths.saved / "predictions").glob("*.csv")
        header, *lines = submission.read_text().splitlines()
        assert header == "ID,Task2" and [line.split(",")[0] for line in lines] == [str(n) for n in range(rows["test"])]
    if name in ("kuaivideo-x1", "microvideo-1.7m-x1"):
        assert split == "given" and rows["test"] == ROWS // 5
        for script in (gen_matrix, mlp):
            assert call(script.main, "--paths", paths.file, "--task", "own_click", "--features", "plus") == 0
        assert call(preprocess_inter.main, "--paths", paths.file, "--valid", "test") == 0
        assert read_artifact(given, "").settings["split"] == "given-valid-test"
        check_leaderboard(paths, capsys)


def test_the_columns_of_kuairand_pure(tmp_path):
    """Step 1 stores the columns beside content of the published files, and features plus uses them."""
    log, items = draw_world()
    write_kuairand(tmp_path, log, items)
    paths = ready_paths(tmp_path, own={"description": "kuairand-pure", "folder": "."})
    paths = steps(paths, preprocess_inter, preprocess_multimodal, get_user_embedding)
    data = load_interactions(paths, "own")
    columns = {side: {one.name: one for one in stored_columns(data.artifact, side)} for side in SIDES}
    assert {side: len(found) for side, found in columns.items()} == {"user": 30, "item": 9, "context": 1}
    author, tag, duration = (columns["item"][name] for name in ("author_id", "tag", "video_duration"))
    assert (author.raw[author.values - 1] == 7349781 + data.item_ids // 4).all()
    assert {"12,65", "2", "39"} == {str(one) for one in tag.raw} and (tag.values[data.item_ids % 4 == 3] == 0).all()
    expected = np.where(data.item_ids % 7 == 3, np.nan, 87433.0 + data.item_ids)
    assert np.array_equal(duration.values, expected.astype(np.float32), equal_nan=True)
    degree = columns["user"]["user_active_degree"]
    assert degree.raw[degree.values[:3] - 1].tolist() == ["full_active", "middle_active", "UNKNOWN"]
    assert columns["user"]["is_live_streamer"].raw.tolist() == [-124]
    assert columns["user"]["onehot_feat17"].values[data.user_ids == 5].tolist() == [0]
    assert columns["context"]["tab"].categories == 3 and data.artifact.manifest["hour"]
    assert data.artifact.manifest["ticks_per_second"] == 1000
    assert call(gen_matrix.main, "--paths", paths.file, "--features", "plus") == 0
    (matrix,) = (paths.matrix / "own_click").glob("*.plus")
    names = read_artifact(matrix, "").manifest["columns"]
    assert {"context:tab:click", "pair-rates:user x tab:click", "item-numbers:video_duration"} <= set(names)


@pytest.mark.skipif(not MOVIELENS, reason="RecBole's environment, which holds MovieLens-100k, is made by make baseline")
def test_movielens_as_recbole_ships_it(tmp_path, capsys):
    paths = ready_paths(tmp_path, movielens={"description": "movielens-100k", "folder": str(MOVIELENS[0].absolute())})
    code, out, err = checked(paths, capsys)
    assert code == 0 and not err and "100.0% of the interactions' items have it" in out
    paths = steps(paths, preprocess_inter, preprocess_multimodal)
    with (MOVIELENS[0] / "ml-100k.inter").open() as file:
        rows = [line.split("\t") for line in file.read().splitlines()[1:]]
    data = load_interactions(paths, "movielens")
    assert len(data) == len(rows) == 100_000 and len(data.user_ids) == 943 and len(data.item_ids) == 1682
    assert data.label("like").sum() == sum(float(row[2]) >= 4 for row in rows)
    users, items = data.user_ids[data.user].tolist(), data.item_ids[data.item].tolist()
    assert set(zip(users, items, data.time.tolist(), strict=True)) == {
        (int(user), int(item), int(time)) for user, item, _, time in rows
    }
    modal = read_artifact(paths.modal / "movielens", "")
    assert modal.manifest["modalities"] == {"title": 64, "genre": 19} and modal.array("genre_present").all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real TikTok input is not beside this repository")
def test_tiktok_real_is_the_same_to_the_last_bit_in_every_form(tmp_path):
    """The built-in module, a description of the same files, and features as arrays give the same bits up to step 4 and
    the same result."""
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    (arrays / "final_track1_train.txt").symlink_to((REAL / "final_track1_train.txt").absolute())
    for name, stem, key in (
        ("visual", "video", "video_feature_dim_128"),
        ("acoustic", "audio", "audio_feature_128_dim"),
    ):
        for part in (1, 2):
            lines = (REAL / f"track1_{stem}_features_part{part}.txt").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            np.save(arrays / f"{name}_part{part}.npy", np.array([row[key] for row in rows], np.float32))
            np.save(arrays / f"{name}_ids_part{part}.npy", np.array([row["item_id"] for row in rows]))
    described_ = {"raw": {"description": "tiktok-track1", "folder": str(REAL.absolute())}}
    described_ |= {"arrays": {"description": "tiktok-arrays", "folder": "arrays"}}
    paths = ready_paths(tmp_path, **described_)
    content = json.loads(paths.read_text())
    content |= {"dataset_path": str(REAL.parent.parent.absolute()), "tiktok_dataset_path": "tiktok-real"}
    paths.write_text(json.dumps(content))
    tasks = ("--task", "tiktok_like", "raw_like", "arrays_like")
    assert call(preprocess_inter.main, "--paths", paths, "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, "--paths", paths) == 0
    assert call(get_user_embedding.main, "--paths", paths, *tasks) == 0
    assert call(cross_matrix.main, "--paths", paths, *tasks, "--variant", "va_concat") == 0
    options = ("--variant", "va_concat", "--epochs", 1, "--batch-size", 8192)
    assert call(mlp.main, "--paths", paths, *tasks, *options) == 0
    paths = load_paths(paths)
    for name in ("raw", "arrays"):
        for kind, one in (("graph", ""), ("modal", ""), ("user_embedding", "_like"), ("matrix", "_like/va_concat")):
            ours, theirs = (read_artifact(getattr(paths, kind) / f"{data}{one}", "") for data in (name, "tiktok"))
            # In a description, columns of users and items are those of a table of their own.
            more = {f"{side}_{what}_{place}" for side in ("user", "item") for what in ARRAYS for place in range(4)}
            assert (set(theirs.array_names) - set(ours.array_names) <= more) and {*ours.array_names} <= {
                *theirs.array_names
            }
            for array in ours.array_names:
                assert np.array_equal(ours.array(array), theirs.array(array)), (name, kind, array)
    found = {(r.auc, r.gauc, r.logloss, r.valid_auc) for r in read_results(paths.results)}
    assert len(found) == 1


# Wrong input


def edited(old, new):
    def change(folder, text):
        assert old in text
        return text.replace(old, new, 1)

    return change


def log_cell(row, column, value):
    def change(folder, text):
        lines = (folder / "log.csv").read_text().splitlines()
        cells = lines[row].split(",")
        cells[lines[0].split(",").index(column)] = value
        lines[row] = ",".join(cells)
        (folder / "log.csv").write_text("\n".join(lines) + "\n")
        return text

    return change


def file_content(name, content):
    def change(folder, text):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return text

    return change


def array(name, values):
    def change(folder, text):
        np.save(folder / name, values)
        return text

    return change


def lists(folder, text):
    pq.write_table(pa.table({"id": [0, 1, 2], "v": [[1.0, 2.0], [3.0], [4.0, 5.0]]}), folder / "lists.parquet")
    return text


def many(*changes):
    def change(folder, text):
        for one in changes:
            text = one(folder, text)
        return text

    return change


TEXT_OF_IDS = 'ids = "array.txt"'
# What is changed in a right description or its files, and what the one line must say.
STEP_1 = {
    "no such description": (lambda f, t: (f / "path.json").write_text(
        (f / "path.json").read_text().replace("mine.toml", "main.toml")) and None, "main.toml: No such file"),
    "no TOML": (edited('files = "log.csv"', "files = log.csv"), "not valid TOML"),
    "not UTF-8": (file_content("mine.toml", b"\xff"), "not valid TOML"),
    "unknown key": (edited('user = "user"', 'usr = "user"'), "is 'usr' a misspelling of it?"),
    "unknown table": (edited("[targets]", "[target]"), "[targets]"),
    "unknown top key": (edited("min_interactions", "min_interaction"), "did you mean 'min_interactions'?"),
    "key of the wrong kind": (edited('item = "item"', "item = 3"), "item = 3: must be text in quotes"),
    "minimum of the wrong kind": (edited("min_interactions = 5", "min_interactions = -1"), "a whole number from 0 to"),
    "no target": (edited('like = "rating >= 4"', ""), "needs a target"),
    "no modality": (lambda f, t: t.split("[modalities", 1)[0], "needs a modality"),
    "no encoding": (edited('vectors = "array.npy"', 'vecctors = "array.npy"'), "is 'vecctors' a misspelling?"),
    "two encodings": (edited(TEXT_OF_IDS, TEXT_OF_IDS + '\ntext = "title"'), "has text and vectors"),
    "bad rule": (edited("rating >= 4", "rating => 4"), "not a rule"),
    "a name with a path": (edited("[modalities.array]", '[modalities."../x"]'), "not a valid name for a modality"),
    "a reserved name": (edited("[modalities.array]", "[modalities.block]"), "not a valid name for a modality"),
    "unknown format": (edited('files = "log.csv"', 'files = "log.csv"\nformat = "cvs"'), "did you mean 'csv'?"),
    "format not known from the name": (many(file_content("log", "a"), edited('"log.csv"', '"log"')), "add format ="),
    "file missing": (edited('"log.csv"', '"logg.csv"'), "did you mean 'log.csv'?"),
    "folder missing": (edited('"log.csv"', '"data/log.csv"'), "does not exist"),
    "empty glob": (edited('"log.csv"', '"none*.csv"'), ": no file "),
    "column missing": (edited('user = "user"', 'user = "usr"'), "'usr' is missing; did you mean 'user'?"),
    "rule's column missing": (edited("rating >= 4", "ratng >= 4"), "'ratng' is missing; did you mean 'rating'?"),
    "rule of one class": (edited("rating >= 4", "rating >= 9"), "labels every kept row 0"),
    "every row positive": (edited('"rating >= 4"', "true"), "add negatives"),
    "no 0 or 1": (edited("rating >= 4", "rating"), "where 0 or 1 is expected"),
    "word for a number": (log_cell(7, "rating", "good"), "log.csv:8: column rating: 'good' is not a number"),
    "empty number": (log_cell(7, "rating", ""), "log.csv:8: column rating: '' is not a number"),
    "NaN": (log_cell(7, "rating", "nan"), "log.csv:8: column rating: 'nan' is not a finite number"),
    "empty id": (log_cell(7, "user", ""), "log.csv:8: column user: an id is empty"),
    "endless id": (log_cell(7, "item", "x" * 300), "log.csv:8: column item: an id has over 200 bytes"),
    "no time": (log_cell(7, "time", "noon"), "log.csv:8: column time: 'noon' is not a whole number"),
    "a time with decimals among whole ones": (log_cell(1200, "time", "1.5"), "log.csv:1201: column time: '1.5' is"),
    "a tab in an id": (many(edited('"log.csv"', '"log.jsonl"'), lambda f, t: (f / "log.jsonl").write_text(
        (f / "log.jsonl").read_text().replace('"item": 3,', '"item": "a\\tb",')) and t), "contains a tab"),
    "an empty log": (file_content("log.csv", "user,item,rating,time\n"), "contains no interactions"),
    "no header": (file_content("log.csv", ""), "the column 'user' is missing"),
    "broken JSON": (many(edited('"log.csv"', '"log.jsonl"'), file_content("log.jsonl", '{"user": 1\n')), "not a JSON"),
    "JSON without a key": (many(edited('"log.csv"', '"log.jsonl"'), lambda f, t: (f / "log.jsonl").write_text(
        (f / "log.jsonl").read_text() + '{"user": 1}\n') and t), f"log.jsonl:{ROWS + 1}: needs the key"),
    "no Parquet": (many(edited('"log.csv"', '"log.parquet"'), file_content("log.parquet", "x")), "be read as Parquet"),
}  # fmt: skip
STEP_2 = {
    "array missing": (edited("array.npy", "arrays.npy"), "did you mean 'array.npy'?"),
    "no array": (file_content("array.npy", "x"), "cannot be read as an array"),
    "an array of one dimension": (array("array.npy", np.zeros(ITEMS)), "must contain numbers, one row per item"),
    "an array of no columns": (array("array.npy", np.zeros((ITEMS, 0))), "must contain numbers, one row per"),
    "arrays of two widths": (many(array("arrays.npy", np.zeros((ITEMS, 3))), file_content("arrays.txt", ""), edited(
        'vectors = "array.npy"\nids = "array.txt"', 'vectors = "array*.npy"\nids = "array*.txt"')), "rows of 3"),
    "arrays without their ids": (many(array("arrays.npy", np.zeros((ITEMS, WIDTH))), edited(
        '"array.npy"', '"array*.npy"')), "2 files of vectors and 1 of ids"),
    "an array of text": (array("array.npy", np.full((ITEMS, 2), "x")), "must contain numbers"),
    "an array of objects": (array("array.npy", np.array([[None]])), "cannot be read as an array"),
    "more ids than rows": (file_content("array.txt", "1\n" * (ITEMS + 1)), f"{ITEMS + 1} ids; give each row one id"),
    "NaN in an array": (array("array.npy", np.full((ITEMS, 2), np.nan)), "row 0 (from 0) contains NaN"),
    "an id of an array twice": (file_content("array.txt", "1\n1\n" + "2\n" * (ITEMS - 2)), "is repeated with other"),
    "ids that match nothing": (file_content("array.txt", "".join(f"v{n}\n" for n in range(ITEMS))), "0.0% of the 40"),
    "lists of different length": (lists, "lists.parquet:2: column v: a list of 1 numbers where 2 are expected"),
    "a list column missing": (edited('vector = "v"', 'vector = "vv"'), "'vv' is missing; did you mean 'v'?"),
    "an item column missing": (edited('item = "id"\nvector', 'item = "idd"\nvector'), "did you mean 'id'?"),
    "a line too short": (file_content("items.csv", "id,title\n1\n"), "items.csv:2: 1 columns where 2 are expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", STEP_1)
def test_wrong_descriptions_and_logs(folder, capsys, case):
    change, message = STEP_1[case]
    text = described("array")
    paths = write_paths(folder, text)
    text = change(folder, text)
    if text is not None and case != "not UTF-8":
        (folder / "mine.toml").write_text(text)
    assert message in refused(paths, preprocess_inter, capsys)
    code, _, err = checked(paths, capsys)
    assert "Traceback" not in err
    assert code == 2


@pytest.mark.parametrize("case", STEP_2)
def test_wrong_features(folder, capsys, case):
    change, message = STEP_2[case]
    text = described("array", "lists", "title")
    paths = write_paths(folder, text)
    steps(paths, preprocess_inter)
    (folder / "mine.toml").write_text(change(folder, text))
    assert message in refused(paths, preprocess_multimodal, capsys)


def test_the_check_names_every_mistake(folder, capsys):
    text = (
        described("array", "lists", "title")
        .replace('user = "user"', 'user = "usr"')
        .replace("rating >= 4", "ratng >= 4")
    )
    text = text.replace('text = "title"', 'text = "titel"').replace("array.txt", "arrays.txt")
    code, out, err = checked(write_paths(folder, text), capsys)
    assert code == 2 and "4 mistakes" in out
    lines = err.splitlines()
    expected = [("log.csv", "usr", "user"), ("log.csv", "ratng", "rating")]
    expected += [("array", "arrays.txt", "array.txt"), ("items.csv", "titel", "title")]
    for line, (file, wrong, right) in zip(lines, expected, strict=True):
        assert file in line and wrong in line and f"did you mean '{right}'" in line
    text = described("array").replace("[interactions]", "[interactions]\nusr = 1\nitm = 2").replace("width", "widht")
    code, _, err = checked(write_paths(folder, text), capsys)
    assert code == 2 and err.count("unknown key") == 2


def test_half_of_the_items_without_features_is_a_warning(folder, capsys):
    (folder / "array.txt").write_text("".join(f"{n if n < 15 else f'v{n}'}\n" for n in range(ITEMS)))
    paths = steps(write_paths(folder, described("array")), preprocess_inter)
    assert call(preprocess_multimodal.main, "--paths", paths.file) == 0
    error = capsys.readouterr().err
    assert "37.5% of the 40 items" in error and "'v15'" in error and "'15'" in error
    code, _, err = checked(paths.file, capsys)
    assert code == 0 and "37.5% of the 40 items" in err


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_bad_rows_are_passed_over_in_every_format(folder, kind):
    log, _ = draw_world()
    ratings = [str(value) for value in log["rating"]]
    ratings[11] = ratings[900] = "x"
    write_log(folder, log | {"rating": ratings}, kind)
    text = described("array").replace('"log.csv"', f'"log.{kind}"')
    paths = write_paths(folder, text)
    assert call(preprocess_inter.main, "--paths", paths, "--skip-bad-lines", 1) == 2
    assert call(preprocess_inter.main, "--paths", paths, "--skip-bad-lines", 2) == 0
    assert len(load_interactions(load_paths(paths), "mine")) == ROWS - 2


def test_names_of_data_sets(folder, capsys):
    for name in ("my_set", "tiktok", "../x", "sweep", ""):
        paths = write_paths(folder, described("array"), name)
        assert f"the name {name!r}" in refused(paths, preprocess_inter, capsys)
    paths = write_paths(folder, described("array"), "my-set.2")
    steps(paths, preprocess_inter)
    assert split_task("my-set.2_a_like") == ("my-set.2", "a_like")
    assert "did you mean 'my-set.2'?" in refused(paths, preprocess_inter, capsys, "--dataset", "my-set")
    assert "did you mean 'my-set.2_like'?" in refused(paths, mlp, capsys, "--task", "my-set.2_lik")


def test_a_description_may_stand_in_path_json(folder, capsys):
    paths = write_paths(folder, described("array", "title"))
    content = json.loads(paths.read_text())
    content["datasets"]["mine"] = tomllib.loads(described("array", "title"))
    paths.write_text(json.dumps(content))
    steps(paths, preprocess_inter, preprocess_multimodal)
    content["datset"] = content.pop("datasets")
    paths.write_text(json.dumps(content))
    assert "did you mean 'datasets'?" in refused(paths, preprocess_inter, capsys)


def test_parquet_is_read_in_batches(tmp_path):
    """The size of a batch does not depend on the size of a row group."""
    from mma4ctr.datasets.table_readers import VECTOR_ROWS, SerialWorkers, Source, read_tables
    from mma4ctr.storage.bad_lines import BadLines

    values = pa.FixedSizeListArray.from_arrays(np.zeros(3 * VECTOR_ROWS * 4 + 4, np.float32), 4)
    pq.write_table(pa.table({"v": values}), tmp_path / "big.parquet")
    source = Source("", tmp_path, ("big.parquet",), batch_rows=VECTOR_ROWS)
    parts = read_tables(
        source, ["v"], lambda table, rows: (len(table), rows.first_line), BadLines(), description="",
        workers=SerialWorkers(),
    )  # fmt: skip
    starts = [1, VECTOR_ROWS + 1, 2 * VECTOR_ROWS + 1, 3 * VECTOR_ROWS + 1]
    assert list(parts) == list(zip([VECTOR_ROWS] * 3 + [1], starts, strict=True))
