"""The README's commands run as they stand, on a small world in place of the demo's; its numbers are not stale."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mma4ctr.world import __main__ as world
from tests.conftest import call

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith(".venv/bin/python ")]
JSON_BLOCKS = re.findall(r"```json\n(.*?)```", README, re.S)
REAL = ROOT.parent / "shared/data/tiktok-real"


def run_command(command: str, folder: Path) -> None:
    """As from the repository's folder, with `folder` in place of the demo's."""
    words = shlex.split(command.replace("demo/path.json", str(folder / "path.json")), comments=True)
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def test_commands_on_the_demo(tmp_path):
    assert call(world.main, tmp_path, "--rows", 16_000, "--users", 80, "--items", 400) == 0
    commands = [command for command in COMMANDS if "demo/path.json" in command]
    assert len(commands) >= 6
    for command in commands:
        run_command(command, tmp_path)


def test_the_world_commands(tmp_path):
    commands = [command for command in COMMANDS if "mma4ctr.world" in command]
    assert len(commands) == 2
    for command in commands:
        command = command.replace(" big ", f" {tmp_path} ")
        for option, small in (("rows", 5000), ("users", 50), ("items", 300)):
            command = re.sub(rf"--{option} \d+", f"--{option} {small}", command)
        run_command(command, tmp_path)
    assert (tmp_path / "dataset/TikTok2019ICME/track1/final_track1_train.txt").is_file()
    assert (tmp_path / "dataset/wechat/user_action.csv").is_file()


def test_the_example_of_your_own_data(tmp_path):
    """The README's description and path.json, on files with the columns that it names."""
    (description,) = re.findall(r"```toml\n(.*?)```", README, re.S)
    (content,) = (block for block in JSON_BLOCKS if "mine.toml" in block)
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
    commands = [command for command in COMMANDS if "own.json" in command]
    assert len(commands) == 8
    for command in commands:
        more = " --points 20" if "viewer.py" in command else ""
        run_command(command.replace("own.json", str(tmp_path / "own.json")) + more, tmp_path)
    assert (tmp_path / "out/saved/report.html").is_file()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real TikTok input is not beside this repository")
def test_commands_on_real_input(tmp_path):
    (content,) = (json.loads(block) for block in JSON_BLOCKS if "tiktok-real" in block)
    content |= {"parent_folder": str(tmp_path), "dataset_path": str(REAL.parent)}
    (tmp_path / "real.json").write_text(json.dumps(content))
    for command in COMMANDS:
        if "real.json" in command:
            more = " --epochs 1" if "mlp.py" in command else ""
            run_command(command.replace("real.json", str(tmp_path / "real.json")) + more, tmp_path)


def test_every_script_and_make_target_named_is_there():
    for name in set(re.findall(r"`(\w+\.py)`", README)):
        assert (ROOT / name).is_file() or (ROOT / "baseline" / name).is_file(), name
    for target in set(re.findall(r"`?make ([a-z-]+)`?", README)) & set(re.findall(r"`make ([a-z-]+)`", README)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
