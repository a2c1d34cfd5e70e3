"""The shell scripts: when they install and when they do not, and what they say where they cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci/run"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, with a .venv whose python writes down what it is asked to do."""
    for name in ("scripts", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\necho "$*" >>asked\n')
    python.chmod(0o755)
    return tmp_path


def asked(project: Path, script: str) -> list[str]:
    """Run a script; the arguments that its python got, those of `-c` and of standard input left out."""
    (project / "asked").write_text("")
    subprocess.run(["bash", script], cwd=project, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    return [line for line in (project / "asked").read_text().splitlines() if line[:2] == "-m"]


INSTALL = [
    "-m pip install -qq --disable-pip-version-check torch==2.13.0",
    "-m pip install -qq --disable-pip-version-check -c constraints.txt -e .[test]",
]
CHECKS = [
    "-m ruff check .",
    "-m ruff format --check .",
    "-m mypy",
    "-m pytest -n 2 --dist loadfile",
]
RENDER = "-m spear_cli render --audio scripts/demo/speech.wav --ref out/demo/astronaut.png -o out/demo/astronaut.mp4"


def test_the_set_up_installs_once_and_again_when_its_inputs_changed(project: Path) -> None:
    assert asked(project, "scripts/test.sh") == INSTALL + CHECKS
    assert asked(project, "scripts/test.sh") == CHECKS
    assert asked(project, ".ci/run") == CHECKS
    assert asked(project, "scripts/demo.sh") == [RENDER]
    with (project / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert asked(project, "scripts/demo.sh") == [*INSTALL, RENDER]
    assert asked(project, "scripts/demo.sh") == [RENDER]


def test_the_first_failure_ends_the_tests(project: Path) -> None:
    python = project / ".venv/bin/python"
    python.write_text('#!/usr/bin/env bash\n[ "$2" != mypy ] || exit 7\n')
    run = subprocess.run(["bash", ".ci/run"], cwd=project, text=True, capture_output=True, timeout=60, check=False)
    assert run.returncode == 7
    assert run.stdout.splitlines()[-1] == "+ .venv/bin/python -m mypy"


def test_without_a_python_that_fits_there_is_a_line(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    tools = project / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    run = subprocess.run(
        ["bash", "scripts/demo.sh"], cwd=project, env=os.environ | {"PATH": str(tools)},
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "error: no Python 3.11 or 3.12 with venv on this machine; "
        "install one (python3.11 and python3.11-venv) and run this again\n"
    )
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], timeout=60, check=True)
    assert "http" not in script.read_text()  # packages come from wherever pip is told to look
    assert "index" not in script.read_text()


def test_ci_runs_without_bash_in_front() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_demo_voice_is_what_its_readme_says() -> None:
    with wave.open(str(ROOT / "scripts/demo/speech.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        assert round(file.getnframes() / 16000, 1) == 4.8
