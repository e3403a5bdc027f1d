"""The scripts from end to end: both data sets, every target and variant, track2, fused, faces, outdated inputs."""

import json
import shutil

import numpy as np
import pytest

import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets import TASKS
from mma4ctr.evaluation import __main__ as results
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare

STEPS = (preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix, cross_matrix, mlp)


def test_every_target_trains(raw_copy):
    paths = raw_copy / "path.json"
    tasks = ("--task", *TASKS)
    for step in (preprocess_inter, preprocess_multimodal):
        more = ("--min-interactions", 20) if step is preprocess_inter else ()
        assert call(step.main, "--paths", paths, *more) == 0
    assert call(get_user_embedding.main, "--paths", paths, *tasks, "--length", 5) == 0
    assert call(cross_matrix.main, "--paths", paths, *tasks) == 0
    assert call(mlp.main, "--paths", paths, *tasks, "--epochs", 1) == 0
    assert {result.task for result in read_results(load_paths(paths).results)} == set(TASKS)


def test_every_variant_trains(made):
    variants = ["visual", "acoustic", "textual"]
    variants += [f"{pair}_{kind}" for pair in ("va", "vt", "at", "vat") for kind in ("concat", "cross")]
    options = ("--task", "wechat_click", "tiktok_like", "--epochs", 1, "--seed", 3)
    assert call(mlp.main, "--paths", made.file, "--variant", *variants, *options) == 0
    found = [(r.task, r.variant) for r in read_results(made.results) if r.seed == 3]
    assert sorted(found) == sorted((task, v) for task in ("wechat_click", "tiktok_like") for v in variants)


def test_fused_is_a_single_modality(made):
    assert call(mlp.main, "--paths", made.file, "--task", "wechat_click", "--variant", "fused", "--epochs", 1) == 0
    assert read_artifact(made.matrix / "wechat_click/fused", "").manifest["in_features"] == 22 + 128


def test_track2_with_faces(tmp_path):
    options = ("--dataset", "tiktok", "--track", "track2", "--rows", 8000, "--users", 50, "--items", 300)
    assert call(world.main, tmp_path, *options) == 0
    folder = tmp_path / "dataset/TikTok2019ICME/track2"
    assert (folder / "track2_video_features.txt").is_file() and (folder / "track2_face_attrs.txt").is_file()
    prepare(tmp_path / "path.json")
    assert call(mlp.main, "--paths", tmp_path / "path.json", "--variant", "face", "vat_concat", "--epochs", 1) == 0
    paths = load_paths(tmp_path / "path.json")
    assert read_artifact(paths.graph / "tiktok", "").settings["track"] == "track2"
    assert {r.variant for r in read_results(paths.results)} == {"face", "vat_concat"}


@pytest.mark.parametrize("split", ["random", "user"])
def test_other_protocols_are_named_in_the_result(raw_copy, split, capsys):
    file = raw_copy / "path.json"
    options = {preprocess_inter: ("--split", split, "--seed", 1, "--dataset", "wechat")}
    options[preprocess_multimodal] = ("--dataset", "wechat")
    options[get_user_embedding] = ("--evidence", "all")
    options[gen_matrix] = options[cross_matrix] = ("--scaling", "minmax")
    prepare(file, options=options)
    assert call(mlp.main, "--paths", file, "--epochs", 1, "--loss", "listwise", "--max-interrupts", 0) == 0
    (result,) = read_results(load_paths(file).results)
    assert result.protocol == {
        "split": split,
        "evidence": "all",
        "folds": 0,
        "scaling": "minmax",
        "loss": "listwise",
    }
    assert result.leaky
    assert "leaky" in capsys.readouterr().err
    assert call(results.main, "--paths", file) == 0
    assert "LEAKY" in capsys.readouterr().out


def test_the_order_of_columns_and_compression_do_not_matter(raw_copy):
    """Shuffled columns, a byte order mark, CRLF and gzip give the same arrays."""
    import gzip

    paths = raw_copy / "path.json"
    prints = []
    for changed in (False, True):
        if changed:
            file = raw_copy / "dataset/wechat/user_action.csv"
            rows = [line.split(",") for line in file.read_text().splitlines()]
            order = np.random.default_rng(0).permutation(len(rows[0]))
            text = "".join(",".join(row[i] for i in order) + "\r\n" for row in rows)
            with gzip.open(file.with_suffix(".csv.gz"), "wb") as out:
                out.write(b"\xef\xbb\xbf" + text.encode())
            file.unlink()
        assert call(preprocess_inter.main, "--paths", paths, "--dataset", "wechat", "--min-interactions", 20) == 0
        prints.append(read_artifact(raw_copy / "graph/wechat", "").fingerprint)
    assert prints[0] == prints[1]


def test_stale_inputs_are_refused(raw_copy, capsys):
    paths = raw_copy / "path.json"
    prepare(paths)
    again = ("--paths", paths, "--dataset", "tiktok", "--min-interactions", 150)
    assert call(preprocess_inter.main, *again) == 0
    capsys.readouterr()
    for step, name in (
        (get_user_embedding, "preprocess_multimodal.py"),
        (cross_matrix, "preprocess_multimodal.py"),
        (mlp, "preprocess_multimodal.py"),
    ):
        assert call(step.main, "--paths", paths, "--task", "tiktok_like") == 2
        assert f"run {name} again" in capsys.readouterr().err
    assert call(preprocess_multimodal.main, "--paths", paths, "--dataset", "tiktok") == 0
    capsys.readouterr()
    assert call(cross_matrix.main, "--paths", paths, "--task", "tiktok_like") == 2
    assert "run get_user_embedding.py again" in capsys.readouterr().err
    assert call(mlp.main, "--paths", paths, "--task", "wechat_click", "--epochs", 1) == 0, "the other is not touched"


def test_steps_out_of_order_name_the_one_to_run(raw_copy, capsys):
    paths = raw_copy / "path.json"
    assert call(get_user_embedding.main, "--paths", paths) == 2
    assert "run preprocess_inter.py first" in capsys.readouterr().err
    assert call(results.main, "--paths", paths) == 2
    assert "run mlp.py first" in capsys.readouterr().err
    assert call(preprocess_inter.main, "--paths", paths, "--min-interactions", 20) == 0
    assert call(get_user_embedding.main, "--paths", paths) == 2
    assert "run preprocess_multimodal.py first" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_is_skipped(raw_copy, capsys):
    shutil.rmtree(raw_copy / "dataset/wechat")
    paths = raw_copy / "path.json"
    assert call(preprocess_inter.main, "--paths", paths, "--min-interactions", 20) == 0
    assert "wechat: skipped" in capsys.readouterr().out
    shutil.rmtree(raw_copy / "dataset/TikTok2019ICME")
    assert call(preprocess_inter.main, "--paths", paths) == 2
    error = capsys.readouterr().err
    assert "edit parent_folder" in error and str(paths) in error


def test_a_missing_modality_skips_its_variants_by_name(raw_copy, capsys):
    (raw_copy / "dataset/TikTok2019ICME/track1/track1_title.txt").unlink()
    shutil.rmtree(raw_copy / "dataset/wechat")
    prepare(raw_copy / "path.json")
    output = capsys.readouterr()
    assert "textual is left out" in output.err
    assert "vat_concat is skipped, because there is no textual modality" in output.out
    made = {path.name for path in (raw_copy / "matrix/tiktok_like").iterdir() if not path.name.startswith(".")}
    assert made == {"visual", "acoustic", "va_concat", "va_cross"}
    assert call(mlp.main, "--paths", raw_copy / "path.json", "--epochs", 1, "--task", "tiktok_like") == 0
    assert "using va_concat instead" in capsys.readouterr().out


def test_an_existing_path_json_works_unchanged(raw_world, tmp_path):
    """With the keys of design section 3, absolute paths, and keys of other programs."""
    content = json.loads((raw_world / "path.json").read_text())
    content |= {"parent_folder": str(tmp_path), "dataset_path": str(raw_world / "dataset"), "something_else": 3}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert call(preprocess_inter.main, "--paths", tmp_path / "mine.json", "--min-interactions", 20) == 0
    assert len(load_interactions(load_paths(tmp_path / "mine.json"), "wechat"))


def test_help_shows_the_defaults(capsys):
    for step in (*STEPS, world, results):
        assert call(step.main, "--help") == 0
        shown = capsys.readouterr().out
        assert "default" in shown and "python" in shown
