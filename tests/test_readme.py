"""The README's commands run as they stand, on a small world in place of the demo's; its numbers are not stale."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mma4ctr.world import __main__ as world
from tests.conftest import call

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith(".venv/bin/python ")]
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


@pytest.mark.skipif(not REAL.is_dir(), reason="the real TikTok input is not beside this repository")
def test_commands_on_real_input(tmp_path):
    content = json.loads(re.search(r"```json\n(.*?)```", README, re.S)[1])
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
