"""Vectors from archives: HDF5, .npz and safetensors give what .npy with ids gives; damaged ones are one line."""

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save_file

import preprocess_inter
import preprocess_multimodal
from mma4ctr.datasets.array_files import array_chunks, checked_ids, vector_file
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

SUFFIXES = ("npz", "h5", "hdf5", "safetensors")
DESCRIPTION = """
min_interactions = 1
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
[targets]
like = "like"
[modalities.motion]
"""


def write(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values.astype(h5py.string_dtype()) if values.dtype.kind == "U" else values
    return path


def read_all(path):
    file = vector_file(path)
    ids = checked_ids(path, file.key)
    return ids, np.concatenate([chunk.values for chunk in array_chunks(file, ids)])


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=30, unique=True),
    st.integers(1, 5),
    st.sampled_from(["f2", "f4", "f8", "i4"]),
)
def test_archives_hold_ids_and_vectors(suffix, tmp_path_factory, ids, width, kind):
    values = np.random.default_rng(0).normal(scale=9, size=(len(ids), width)).astype(kind)
    path = write(tmp_path_factory.mktemp("archive") / f"a.{suffix}", key=np.array(ids), value=values)
    found, read = read_all(path)
    assert found.values.tolist() == ids and read.tolist() == values.astype(np.float32).tolist()


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_ids_can_be_text(tmp_path, suffix):
    names = np.array(["a", "b c", "\u00e4"])
    path = write(tmp_path / f"a.{suffix}", key=names, value=np.ones((3, 2)))
    assert read_all(path)[0].shown().to_pylist() == names.tolist()


def test_chunks_are_read_in_slices(tmp_path, monkeypatch):
    monkeypatch.setattr("mma4ctr.datasets.array_files.ARRAY_ROWS", 7)
    values = np.arange(40, dtype=np.float32).reshape(20, 2)
    for suffix in SUFFIXES:
        _, read = read_all(write(tmp_path / f"a.{suffix}", key=np.arange(20), value=values))
        assert read.tolist() == values.tolist(), suffix


ONES, KEYS = np.ones((4, 2), np.float32), np.arange(4)
WRONG = {
    "no key": ({"value": ONES}, "has no array 'key' (its arrays: value); write the ids as key"),
    "no value": ({"key": KEYS, "values": ONES}, "has no array 'value' (its arrays: key, values)"),
    "rows": ({"key": KEYS[:3], "value": ONES}, "key has 3 ids and value 4 rows"),
    "flat": ({"key": KEYS, "value": ONES[:, 0].copy()}, "value: must contain numbers, one row per item"),
    "wide ids": ({"key": ONES, "value": ONES}, "key: must contain ids, one per item"),
    "no columns": ({"key": KEYS, "value": ONES[:, :0].copy()}, "value: must contain numbers"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_archives_are_named(tmp_path, suffix, mistake):
    arrays, message = WRONG[mistake]
    path = write(tmp_path / f"a.{suffix}", **arrays)
    with pytest.raises(UserError) as error:
        vector_file(path)
    assert message in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_archives_are_named(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", key=np.arange(500), value=np.random.default_rng(0).normal(size=(500, 8)))
    whole = path.read_bytes()
    for content in (b"", b"user,item\n1,2\n", whole[: len(whole) // 2], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as|has no array"):
            read_all(path)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read as"):
        vector_file(path)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(user, item, n, n % 2) for n, (user, item) in enumerate(rng.integers(0, 12, (300, 2)).tolist())]
    (tmp_path / "log.csv").write_text("user,item,time,like\n" + "".join(",".join(map(str, r)) + "\n" for r in rows))
    np.save(tmp_path / "ids.npy", np.arange(12)[::-1])
    np.save(tmp_path / "array.npy", rng.normal(size=(12, 6)).astype(np.float32))
    write_described(tmp_path, {"own": "own.toml"})
    return tmp_path


def step_2(folder, text):
    """The exit code of steps 1 and 2, and the modality."""
    (folder / "own.toml").write_text(DESCRIPTION + text)
    assert call(preprocess_inter.main, "--paths", folder / "path.json") == 0
    code = call(preprocess_multimodal.main, "--paths", folder / "path.json")
    return code, load_paths(folder / "path.json").modal / "own"


def test_step_2_is_the_same_from_every_format(folder):
    values, ids = np.load(folder / "array.npy"), np.load(folder / "ids.npy")
    code, made = step_2(folder, 'vectors = "array.npy"\nids = "ids.npy"\n')
    expected = read_artifact(made, "").array("motion")
    assert code == 0 and expected.any()
    for suffix in SUFFIXES:
        write(folder / f"motion.{suffix}", key=ids, value=values)
        code, made = step_2(folder, f'vectors = "motion.{suffix}"\n')
        assert code == 0 and read_artifact(made, "").array("motion").tobytes() == expected.tobytes()
    # Several files, one modality.
    write(folder / "part1.h5", key=ids[:5], value=values[:5])
    write(folder / "part2.h5", key=ids[5:], value=values[5:])
    code, made = step_2(folder, 'vectors = "part*.h5"\n')
    assert code == 0 and np.allclose(read_artifact(made, "").array("motion"), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["value", "embeddings"])
def test_ids_can_stand_in_another_file(folder, suffix, name):
    values, ids = np.load(folder / "array.npy"), np.load(folder / "ids.npy")
    code, made = step_2(folder, 'vectors = "array.npy"\nids = "ids.npy"\n')
    expected = read_artifact(made, "").array("motion").tobytes()
    write(folder / f"motion.{suffix}", **{name: values})
    (folder / "ids.txt").write_text("".join(f"{one}\n" for one in ids))
    (folder / "table.csv").write_text("name,id\n" + "".join(f"x,{one}\n" for one in ids))
    given = ['"ids.npy"', '"ids.txt"', '"table.csv"\nitem = "id"']
    for other in SUFFIXES:
        write(folder / f"ids_{other}.{other}", **{"key" if name == "value" else "numbers": ids})
        given.append(f'"ids_{other}.{other}"')
    for one in given:
        code, made = step_2(folder, f'vectors = "motion.{suffix}"\nids = {one}\n')
        assert code == 0 and read_artifact(made, "").array("motion").tobytes() == expected, one
    # The id of the first row; and ids that are named replace those inside.
    write(folder / f"motion.{suffix}", **{name: values[::-1].copy()})
    code, made = step_2(folder, f'vectors = "motion.{suffix}"\nids = 0\n')
    assert code == 0 and read_artifact(made, "").array("motion").tobytes() == expected
    write(folder / f"motion.{suffix}", value=values, key=ids[::-1].copy())
    code, made = step_2(folder, f'vectors = "motion.{suffix}"\nids = "ids.npy"\n')
    assert code == 0 and read_artifact(made, "").array("motion").tobytes() == expected


ELSEWHERE = {
    "rows": ({"value": np.ones((5, 2))}, KEYS, "5 rows but 4 ids; give each row one id, in order"),
    "twice": ({"value": np.arange(8.0).reshape(4, 2)}, np.array([1, 2, 3, 2]), "item 2 is repeated"),
    "flat": ({"value": ONES[:, 0].copy()}, KEYS, "value: must contain numbers, one row per item"),
    "two arrays": (
        {"one": ONES, "two": ONES},
        KEYS,
        "has no array 'value' (its arrays: one, two); write the vectors as",
    ),
    "flat ids": ({"value": ONES}, ONES, "must contain ids, one per item"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_ids_elsewhere_are_checked(folder, capsys, suffix, mistake):
    arrays, ids, message = ELSEWHERE[mistake]
    write(folder / f"motion.{suffix}", **arrays)
    for kind in ("npy", suffix):
        np.save(folder / "others.npy", ids)
        write(folder / f"others.{suffix}", **({"key": ids} if kind == suffix else {"x": ids}))
        capsys.readouterr()
        code, _ = step_2(folder, f'vectors = "motion.{suffix}"\nids = "others.{kind}"\n')
        (line,) = [one for one in capsys.readouterr().err.split("error:")[1:]]
        assert (
            code == 2 and message in " ".join(line.split()) and "motion" in line + ("motion" * (mistake == "flat ids"))
        )
    for content in (b"", b"user,item\n1,2\n"):
        for name in (f"motion.{suffix}", f"others.{suffix}"):
            write(folder / f"motion.{suffix}", value=ONES)
            write(folder / f"others.{suffix}", key=KEYS)
            (folder / name).write_bytes(content)
            code, _ = step_2(folder, f'vectors = "motion.{suffix}"\nids = "others.{suffix}"\n')
            (line,) = [one for one in capsys.readouterr().err.split("error:")[1:]]
            assert code == 2 and name in line and "cannot be read as" in " ".join(line.split())


def test_a_key_that_stands_twice_is_an_error(folder, capsys):
    write(folder / "motion.h5", key=np.array([1, 2, 3, 2]), value=np.arange(8).reshape(4, 2))
    code, _ = step_2(folder, 'vectors = "motion.h5"\n')
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert code == 2 and "motion.h5" in line and "item 2 is repeated" in line
    np.save(folder / "alone.npy", np.ones((3, 2)))
    (folder / "own.toml").write_text(DESCRIPTION + 'vectors = "alone.npy"\n')
    assert call(preprocess_multimodal.main, "--paths", folder / "path.json") == 2
    assert "the key 'ids' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [*SUFFIXES, "npy"])
@given(st.data())
def test_archives_with_changed_bytes_are_read_or_named(suffix, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    values = np.random.default_rng(0).normal(size=(40, 3))
    path = folder / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "npz":
        np.savez_compressed(path, key=np.arange(40), value=values)
    elif suffix == "safetensors":
        save_file({"key": np.arange(40), "value": values}, path)
    else:
        with h5py.File(path, "w") as file:
            file["key"] = np.arange(40)
            file.create_dataset("value", data=values, compression="gzip", fletcher32=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        file = vector_file(path)
        ids = checked_ids(path, np.arange(file.shape[0]) if file.key is None else file.key)
        for chunk in array_chunks(file, ids):
            assert np.isfinite(chunk.values).all()
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_a_filter_that_hdf5_lacks_is_named(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["key"] = np.arange(500)
        file.create_dataset("value", data=np.zeros((500, 8)), compression="gzip", chunks=(100, 8))
    content = path.read_bytes()
    with h5py.File(path) as file:
        start = file["value"].id.get_chunk_info(0).byte_offset
    path.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
    with pytest.raises(UserError, match=r"a\.h5: cannot be read as h5"):
        read_all(path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
def test_safetensors_of_every_kind_of_float_are_read(tmp_path, kind):
    values = torch.randn(6, 3).to(kind)
    torch_save_file({"key": torch.arange(6), "value": values, "other": values.clone()}, tmp_path / "a.safetensors")
    assert (read_all(tmp_path / "a.safetensors")[1] == values.float().numpy()).all()


@pytest.mark.parametrize("kind", ["<i8", ">i8", ">u4", ">f8", "<f4", "<U3", ">U3"])
def test_ids_in_either_byte_order(tmp_path, kind):
    ids = np.arange(5).astype(kind)
    np.save(tmp_path / "ids.npy", ids)
    assert checked_ids(tmp_path, np.load(tmp_path / "ids.npy")).values.tolist() == [0, 1, 2, 3, 4]


def test_ids_of_a_kind_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="ids"):
        checked_ids(tmp_path / "ids.npy", np.arange(5).astype(np.longdouble))
