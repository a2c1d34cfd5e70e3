"""README.md against the program: its commands parse and run, its tree is the tree, a command is one word throughout."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import done, forked_spear
from typer.main import get_command

from spear_cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
GROUP: Any = get_command(app)
COMMANDS: list[str] = list(GROUP.commands)

SHORT = {"train-a2lm": ["--epochs", "1"], "train-lm2face": ["--epochs", "1", "--frames-per-clip", "1"]}
"""What is appended to a training, so that it takes seconds."""
ADAPTED = ["--adapt", "1"]
"""To a render that trains first."""
ELSEWHERE = re.compile(r"hubert|wav2vec2|unispeech|paper|--fid|--vae|--scheduler|face-alignment|\$|\.\.\.|VIDEOS")
"""Commands that are parsed but not run: they want downloaded weights, other machines, or hold a blank to fill in."""


def code_lines(text: str) -> list[str]:
    """Lines of fenced and of indented code blocks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = [line[4:] for line in rest.splitlines() if line.startswith("    ")]
    return [line for block in fenced for line in block.replace("\\\n", " ").splitlines()] + indented


def shown_commands(text: str) -> list[list[str]]:
    """The arguments of every `spear ...` line, in order and without repetition."""
    found = []
    for line in code_lines(text):
        for part in re.split(r"&&|;|\|", line.split("#")[0].removeprefix("$ ")):
            start = re.match(r"\s*(?:[A-Z_]+=\S* +)*(?:spear|.* -m spear_cli) (.*)", part)
            if start and (args := shlex.split(start.group(1))) not in found:
                found.append(args)
    return found


SHOWN = shown_commands(README)


def test_readme_shows_the_set_up_and_every_command() -> None:
    lines = [line.split("#")[0].strip() for line in code_lines(README)]
    assert {"bash scripts/demo.sh", "bash scripts/test.sh"} <= set(lines)
    assert {args[0] for args in SHOWN} >= set(COMMANDS)


@pytest.mark.parametrize("args", SHOWN, ids=" ".join)
def test_a_command_of_the_readme_parses(args: list[str]) -> None:
    if args[0].startswith("-"):
        assert args in (["--help"], ["--version"])
    else:
        GROUP.commands[args[0]].make_context(args[0], args[1:])  # raises for an option that does not exist


def test_the_commands_of_the_readme_run(
    tmp_path: Path, talking_videos: Path, speech_wav: Path, portrait_png: Path
) -> None:
    """One after the other in one folder; what they read and nobody has made lies there under the name in the README."""
    ran = []
    for args in SHOWN:
        if not ELSEWHERE.search(" ".join(args)):
            for position, word in enumerate(args[1:], start=1):
                supply(tmp_path / word, args[position - 1], talking_videos, speech_wav, portrait_png)
            short = ADAPTED if "--adapt" in args else SHORT.get(args[0], [])
            done(forked_spear(*args, *short, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")))
            ran.append(args[0])
    assert {*ran} >= {*COMMANDS}


def supply(path: Path, before: str, videos: Path, speech: Path, portrait: Path) -> None:
    """Put the file that an argument names there, if it names one to be read. before: the word in front of it."""
    if path.exists() or before in ("-o", "--out", "--clips", "--models", "--encoder", "--preset", "-j", "--jobs"):
        return
    if before == "--audio":
        shutil.copy(speech, path)
    elif path.suffix in (".png", ".jpg"):
        shutil.copy(portrait, path)
    elif path.suffix in (".mp4", ".mov", ".mkv", ".webm"):
        shutil.copy(videos / "talker_0.mp4", path)
    elif before == "--list":
        path.write_text("audio,ref,out\nspeech.wav,face.mp4,made.mp4\n")
    elif before in ("preprocess", "metrics", "renders/") and not path.name.startswith("-"):
        shutil.copytree(videos, path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_word_throughout(command: str) -> None:
    """Command = stage = test = README line."""
    word = command.replace("-", "_")
    assert callable(getattr(importlib.import_module(f"spear.stages.{word}"), word))
    assert ROOT.joinpath(f"tests/stages/test_{word}.py").is_file()
    assert f"spear {command}" in README


def tree_of_readme() -> set[str]:
    """The files that the README's tree names: each line of its code blocks begins with a path."""
    section = re.search(r"^## The tree\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert section, "README.md has no section `## The tree`"
    return {line.split()[0] for line in code_lines(section.group(1)) if line.strip()}


def test_the_readme_names_the_files_that_there_are() -> None:
    named = tree_of_readme()
    assert {name for name in named if not ROOT.joinpath(name).exists()} == set()
    tops = [ROOT / name for name in ("spear", "spear_cli", "scripts")]
    there = [path for top in tops for path in top.rglob("*") if path.suffix in (".py", ".sh")]
    modules = {path.relative_to(ROOT).as_posix() for path in there if path.name != "__init__.py"}
    assert modules - named == set()
