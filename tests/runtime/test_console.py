"""Text is printed literally: no markup, no emoji and no control character of the data takes effect."""

import argparse
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

import mlp
from mma4ctr.runtime import console
from tests.conftest import ROOT, call

TRICKY = ["file:100:", ":smile:", "[bold]x[/bold]", "[/]", "[red", "\\[x]", "[link=http://x]a[/link]", "a\x1b[31mb"]
TRICKY += [
    "\x1b]0;title\x07",
    "a\rb",
    "a\nb",
    "a\tb",
    "\x9b31m",
    "\u202egnp.exe",
    "\udc80",
    "{0} {x} {",
    "%s %(prog)s",
    "",
]
text = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(), max_size=30),
    st.lists(st.sampled_from(TRICKY), max_size=3).map(" ".join),
)
# Styles that the console itself sets: colours, bold, italic.
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def updated(words):
    with console.RunsDisplay(2) as display:
        display.update(words, 1, 2, words)
        display.finish(words, 1, words)


def barred(words):
    with console.progress(words, 10) as advance:
        advance(3)


PRINTERS = {
    "note": console.note,
    "warn": console.warn,
    "details": lambda words: console.warn("x", words),
    "error": console.print_error,
    "closing line": lambda words: console.closing_line(1, words, 3, console.Stopwatch()),
    "title": lambda words: console.print_table(words, ["a", "b"], [["1", "2"]]),
    "header": lambda words: console.print_table("x", ["a", words, words], [["1", "2", "3"]]),
    "cells": lambda words: console.print_table("x", ["a", "b", "c"], [[words, words, words]]),
    "a run": updated,
    "a bar": barred,
}


def printed(work, words, terminal=False):
    """Return what a function prints to a file or to a terminal."""
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("out", "err"):
            patch.setattr(console, name, console._Output(file=stream, force_terminal=terminal, width=10_000))
        work(words)
    stream.flush()
    return stream.buffer.getvalue().decode()


@pytest.mark.parametrize("name", PRINTERS)
@settings(max_examples=60)
@given(text)
@example("file:100: [bold]\x1b[2J")
def test_text_is_printed_as_it_is(name, words):
    found = printed(PRINTERS[name], words)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", found)
    if name != "a bar":  # nothing is shown of it in a file
        assert console.printable(words) in found
    lines = {"title": 6, "header": 6, "cells": 6, "details": 2, "a bar": 0}.get(name, 1)
    assert found.count("\n") == lines


@pytest.mark.parametrize("name", PRINTERS)
@settings(max_examples=25)
@given(text)
def test_a_terminal_gets_no_control_of_the_data(name, words):
    """Bars move the cursor, so their output is searched only for the sequences of the tricky texts."""
    found = printed(PRINTERS[name], words, terminal=True)
    if name in ("a run", "a bar"):
        assert "\x1b]0;" not in found and "\x9b" not in found and "\x1b[31m" not in found
    else:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", STYLE.sub("", found))
        assert console.printable(words) in STYLE.sub("", found)


@settings(max_examples=100)
@given(text)
def test_what_is_shown_has_no_control_and_keeps_the_rest(words):
    found = console.printable(words)
    assert found.isprintable() or not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", found)
    found.encode()
    if words.isprintable():
        assert found == words


@settings(max_examples=60)
@given(text)
def test_errors_of_the_command_line(words):
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "argv", ["script", "--number", words or "x"])
        options = console.parser(None)
        options.add_argument("--number", type=console.whole_number(1))
        options.parse_args()
        raise SystemExit  # a number
    assert "\x1b" not in stream.getvalue() and stream.getvalue().count("\n") in (0, 2)


@pytest.mark.parametrize("value", ["9" * 5000, "-" + "9" * 5000, "1e3", "1_000", "٣", "", " ", "0x1", "1" * 30])
def test_numbers_of_the_command_line(value):
    with pytest.raises(argparse.ArgumentTypeError) as found:
        console.whole_number(1)(value)
    assert len(str(found.value)) < 100


def test_a_path_with_markup_and_escapes(made, tmp_path, capsys):
    for name in ("[bold]x", "[/]", ":smile:", "a\x1b[31m", "\udc80"):
        assert call(mlp.main, "--paths", tmp_path / name / "path.json") == 2
        error = capsys.readouterr().err
        assert console.printable(name) in error and "\x1b" not in error and error.count("\n") == 1


# A small script that prints all kinds of lines.
SCRIPT = """
import sys
from mma4ctr.runtime.console import note, print_table, run, warn
from mma4ctr.runtime.errors import UserError

def main():
    note("gr\\u00f6\\u00dfe \\u89c6\\u9891 " * 10)
    print_table("gr\\u00f6\\u00dfe", ["a", "b"], [["\\u89c6", "1"]])
    warn("gr\\u00f6\\u00dfe")
    if len(sys.argv) > 1:
        raise UserError("gr\\u00f6\\u00dfe")

run(main)
"""


def started(*arguments, **more):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, **options)


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}]
)
def test_output_that_is_ascii(variables):
    for arguments, code in (((), 0), (("fail",), 2)):
        process = started(*arguments, env=os.environ | variables)
        _, error = process.communicate()
        assert process.returncode == code and error.count(b"\n") == 1 + bool(code), error


def test_a_reader_that_goes_away():
    """As with `| head`: no traceback, and the script finishes."""
    process = started()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0 and error.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_standard_output_on_a_full_disk():
    with Path("/dev/full").open("w") as full:
        process = started(stdout=full)
        _, error = process.communicate()
    assert process.returncode == 2 and error.count(b"error:") == 1 and b"No space left" in error


class Full(io.StringIO):
    """A stream to a full disk."""

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("noticed", [False, True])
def test_a_full_disk_is_reported_once(monkeypatch, capsys, noticed):
    """Whether a line of the script meets the full disk, or only the last flush."""
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(SystemExit) as end:
        console.run(lambda: sys.stdout.flush() if noticed else None)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_consoles_take_no_markup():
    for one in (console.out, console.err):
        assert isinstance(one, Console) and not one._markup and not one._emoji
