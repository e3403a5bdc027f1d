"""README.md and docs/: the commands run, on small data instead of the demo; links, names and tables are right."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import orjson
import pytest

from mma4ctr.datasets.spec_split import given_split
from mma4ctr.datasets.spec_table import SpecTable
from mma4ctr.datasets.toml_spec import read_description
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
REAL = ROOT.parent / "shared/data/tiktok-real"
MAX_WORDS, MAX_COLUMNS = 1200, 9


@cache
def text_of(page: Path) -> str:
    return page.read_text()


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.S)


def prose(page: Path) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"```.*?```", "", text_of(page), flags=re.S)


def shell_lines(page: Path) -> list[str]:
    lines = [line for block in code_blocks(page, "sh") for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def commands(part: str) -> list[str]:
    """List the distinct Python commands of all pages that contain `part`; the page that runs every step comes first."""
    pages = sorted(PAGES, key=lambda page: page.name != "artifacts.md")
    found = [line for page in pages for line in shell_lines(page) if line.startswith(".venv/bin/python ")]
    return [line for line in dict.fromkeys(found) if part in line]


def run_command(command: str) -> None:
    """Run a command in this process; torchrun starts processes of its own."""
    _, *words = shlex.split(command)
    if "torch.distributed.run" in words:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return
    if words[0] == "-m":
        module = import_module(words[1])
        if hasattr(module, "__path__"):
            module = import_module(f"{words[1]}.__main__")
        arguments = words[2:]
    else:
        module = import_module(words[0].removesuffix(".py").replace("/", "."))
        arguments = words[1:]
    assert call(module.main, *arguments) == 0, command


def write_pairs(folder: Path) -> None:
    """Write pairs.tsv and users.tsv with known users, known items, and one item of which only features are known."""
    graph = folder / "graph/tiktok"
    users, items = np.load(graph / "user_ids.npy")[:3], np.load(graph / "item_ids.npy")
    (features,) = (folder / "dataset").rglob("track1_video_features_part1.txt")
    known = set(items.tolist())
    new = next(item for line in features.open() if (item := orjson.loads(line)["item_id"]) not in known)
    pairs = [f"{user}\t{item}" for user in users for item in (*items[:5], new)]
    (folder / "pairs.tsv").write_text("\n".join(["user\titem", *pairs]) + "\n")
    (folder / "users.tsv").write_text("\n".join(["user", *map(str, users)]) + "\n")


def test_commands_on_the_demo(tmp_path, without_umap):
    assert call(world.main, tmp_path, "--rows", 8000, "--users", 60, "--items", 300) == 0
    found = commands("demo/path.json")
    assert len(found) >= 15
    for command in found:
        if ".tsv" in command and not (tmp_path / "pairs.tsv").is_file():
            write_pairs(tmp_path)
        command = command.replace("demo/path.json", str(tmp_path / "path.json"))
        run_command(re.sub(r"\b(\w+\.(tsv|onnx))\b", rf"{tmp_path}/\1", command))
    assert (tmp_path / "model.onnx").is_file()
    assert (tmp_path / "saved/report.html").is_file()


def test_commands_of_the_simulation(tmp_path):
    found = [command for command in commands("mma4ctr.simulation") if " big " in command]
    assert len(found) == 4
    for command in found:
        command = command.replace(" big ", f" {tmp_path} ")
        for option, small in (("rows", 5000), ("users", 50), ("items", 300)):
            command = re.sub(rf"--{option} \d+", f"--{option} {small}", command)
        run_command(command)
    assert (tmp_path / "dataset/TikTok2019ICME/track1/final_track1_train.txt").is_file()
    assert (tmp_path / "dataset/wechat/user_action.csv").is_file()
    assert (tmp_path / "dataset/microvideo-1.7m-x1/train.csv").is_file()


def test_commands_of_the_simulated_benchmarks(tmp_path):
    found = commands("demo/bars")
    assert len(found) == 10
    # The pages name the two that use a run before the page that makes it.
    for command in sorted(found, key=lambda command: "--predict" in command or "leaderboard" in command):
        run_command(re.sub(r"--rows \d+", "--rows 3000", command.replace("demo/bars", str(tmp_path))))
    assert len((tmp_path / "saved/results.jsonl").read_text().splitlines()) == 4


def test_commands_on_all_rows_of_track1(tmp_path):
    found = [command for command in commands("") if " full" in command]
    assert len(found) == 8
    for command in found:
        command = re.sub(r" full\b", f" {tmp_path}", command)
        for option, small in (("rows", 9000), ("users", 30), ("items", 300)):
            command = re.sub(rf"--{option} \d+", f"--{option} {small}", command)
        run_command(command)
    assert len((tmp_path / "saved/results.jsonl").read_text().splitlines()) == 2


def test_the_example_of_your_own_data(tmp_path, without_umap):
    """The description and path.json of the page work on files with the columns that it names."""
    page = ROOT / "docs/your-data.md"
    (description, columns, *splits), (content,) = code_blocks(page, "toml"), code_blocks(page, "json")
    assert set(tomllib.loads(description + columns)["columns"]) == {"item", "user", "context"}
    for text in splits:
        mistakes = []
        given_split(SpecTable(tomllib.loads(text)["split"], "", mistakes), SpecTable({}, "", mistakes), tmp_path)
        assert not mistakes
    assert len(splits) == 2
    (tmp_path / "mine.toml").write_text(description)
    (tmp_path / "own.json").write_text(content)
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    log = zip(*(rng.integers(1, high, 3000) for high in (60, 90, 6, 10**9)), strict=True)
    lines = [f"{user},film-{item},{stars},{time}" for user, item, stars, time in log]
    (tmp_path / "data/log-1.csv").write_text("\n".join(["user,film,stars,time", *lines]) + "\n")
    films = [f"film-{number}" for number in range(1, 90)]
    lines = [f"{film},{rng.choice(['The cat', 'A dog', 'Red bird'])},comedy drama" for film in films]
    (tmp_path / "data/films.csv").write_text("\n".join(["film,title,genres", *lines]) + "\n")
    np.save(tmp_path / "data/pictures.npy", rng.normal(size=(89, 12)).astype(np.float32))
    (tmp_path / "data/pictures.txt").write_text("\n".join(films) + "\n")
    found = commands("own.json")
    assert len(found) == 8
    for command in found:
        more = " --points 20" if "viewer.py" in command else ""
        run_command(command.replace("own.json", str(tmp_path / "own.json")) + more)
    assert (tmp_path / "out/saved/report.html").is_file()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real TikTok input is not beside this repository")
def test_commands_on_the_tiktok_sample(tmp_path):
    content = json.loads((ROOT / "configs/tiktok-real.json").read_bytes())
    content |= {"parent_folder": str(tmp_path), "dataset_path": str(REAL.parent)}
    (tmp_path / "real.json").write_text(json.dumps(content))
    found = commands("configs/tiktok-real.json")
    assert len(found) == 6
    for command in found:
        more = " --epochs 1" if "mlp.py" in command else ""
        run_command(command.replace("configs/tiktok-real.json", str(tmp_path / "real.json")) + more)


def test_the_tests_above_run_every_command():
    known = ("demo/path.json", "demo/bars", "own.json", "configs/tiktok-real.json", "mma4ctr.simulation")
    known = (*known, " full/path.json")
    for page in PAGES:
        for line in shell_lines(page):
            assert line.split()[0] in (".venv/bin/python", "make", "mkdir"), (page.name, line)
    assert all(any(part in command for part in known) for command in commands(""))


@pytest.mark.parametrize(
    ("name", "output", "raw"),
    [
        ("tiktok-real", "demo/real", "../shared/data/tiktok-real"),
        ("movielens", "demo/own", "demo/own/wheel/recbole/dataset_example/ml-100k"),
    ],
)
def test_configs_write_to_the_demo_folder(name, output, raw):
    paths = load_paths(ROOT / f"configs/{name}.json")
    for folder in paths.outputs.values():
        assert folder.resolve().parent == (ROOT / output).resolve()
    found = paths.tiktok
    if paths.described:
        description, problems = read_description(name, paths)
        assert not problems and description is not None
        found = description.folder
    assert found.resolve() == (ROOT / raw).resolve()


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        times = found.get(name, 0)
        found[name] = times + 1
        anchors.add(f"{name}-{times}" if times else name)
    return anchors


def links_of(page: Path) -> list[tuple[Path, str]]:
    """Return file and anchor of every relative link."""
    links = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            links.append(((page.parent / file).resolve() if file else page, anchor))
    return links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for file, anchor in links_of(page):
        assert file.exists(), (page.name, file)
        assert not anchor or anchor in anchors_of(file), (page.name, file.name, anchor)


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = {README}, [README]
    while waiting:
        for file, _ in links_of(waiting.pop()):
            if file.suffix == ".md" and file not in reached:
                reached.add(file)
                waiting.append(file)
    assert set(PAGES) <= reached
    assert set(DOCS) <= {file for file, _ in links_of(README)}


def test_the_readme_is_short():
    assert len(text_of(README).split()) <= MAX_WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_narrow_and_complete(page):
    for table in re.findall(r"(?:^\|.*\n?)+", prose(page), re.M):
        widths = {len(row.strip().strip("|").split("|")) for row in table.splitlines()}
        assert len(widths) == 1, (page.name, table[:200])
        assert widths.pop() <= MAX_COLUMNS, (page.name, table[:200])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_make_targets_and_paths_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    text = text_of(page)
    for name in re.findall(r"(?:`|\.venv/bin/python |\d )(\w+\.py)\b", text):
        assert any((ROOT / folder / name).is_file() for folder in ("", "baseline")), name
    targets = re.findall(r"`make ([a-z][a-z-]*)", text)
    targets += [line.split()[1] for line in shell_lines(page) if re.match("make [a-z]", line)]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
    # These two also name removed paths.
    if page.name not in ("CHANGELOG.md", "glossary.md"):
        for name in re.findall(r"`((?:mma4ctr|configs|docs|tests|baseline|benchmarks)/[^`\s]*)`", text):
            assert (ROOT / name).exists(), name
