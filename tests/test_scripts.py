"""The shell scripts: when they install and when they do not, and what they say where they cannot."""

from __future__ import annotations

import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, make_clip
from tiny_nets import tiny_lm2face

from spear.face_pairs import read_faces

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


# --- the ablation


MISSING = "the weights x/y of the encoder hubert are not on this computer; run `hf download x/y`"


@pytest.fixture
def ablation(project: Path) -> Path:
    """The project with a spear that writes down what it is asked for, has no weights of HuBERT, and scores 1.5."""
    bin_folder = project / ".venv/bin"
    (bin_folder / "python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (bin_folder / "spear").write_text(
        "#!/usr/bin/env bash\n"
        'echo "$*" >>asked\n'
        'case "$*" in\n'
        f"*'--encoder hubert'*) echo 'error: {MISSING}' >&2; exit 1 ;;\n"
        "*'--encoder mfcc'*) echo 'error: the disk is full' >&2; exit 1 ;;\n"
        'metrics*) echo \'{"values": {"ld_percent": 1.5}}\' ;;\n'
        "esac\n"
    )
    (bin_folder / "spear").chmod(0o755)
    return project


def ablate(project: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    (project / "asked").write_text("")
    return subprocess.run(
        ["bash", "scripts/ablation.sh", *args], cwd=project, env=os.environ | {"SEEDS": "0", "POSES": "rigid"} | env,
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


PREPARED = [
    "preprocess in --clips out/ablation/clips --split-by clip --jobs 2",
    "landmarks --clips out/ablation/clips --jobs 2",
    "preprocess new --clips out/ablation/unseen --split-by clip --jobs 2",
    "landmarks --clips out/ablation/unseen --jobs 2",
    "extract-audio-features --encoder hubert --clips out/ablation/clips",
    "extract-audio-features --encoder none --clips out/ablation/clips",
    "extract-audio-features --encoder none --clips out/ablation/unseen --changed 0",
]


def test_the_ablation_trains_every_encoder_alike_once_and_lists_missing_weights(ablation: Path) -> None:
    run = ablate(ablation, "in", "new", "7", ENCODERS="hubert none")
    assert (run.returncode, run.stderr) == (0, f"error: {MISSING}\n")
    models = "--models out/ablation/none.rigid.0"
    assert (ablation / "asked").read_text().splitlines() == [
        *PREPARED,
        f"train-a2lm --encoder none --pose rigid --seed 0 --epochs 7 --clips out/ablation/clips {models}",
        f"metrics --ld --lvd --json {models} --clips out/ablation/clips",
        f"metrics --ld --lvd --json {models} --clips out/ablation/unseen --split all",
    ]
    table = (ablation / "out/ablation/table3.md").read_text()
    assert run.stdout == table
    assert table.endswith(f"\n## Not measured: weights that are missing\n\n- hubert: {MISSING}\n")
    assert table.count("| none | rigid | 1 | 1.500 | - | - | - |") == 2
    assert "7 epochs on in, split by clip" in table
    assert ablate(ablation, "in", "new", "7", ENCODERS="hubert none").returncode == 0
    assert (ablation / "asked").read_text().splitlines() == PREPARED


def test_weights_that_came_are_used_and_no_longer_missing(ablation: Path) -> None:
    ablate(ablation, "in", ENCODERS="whisper hubert")
    assert (ablation / "out/ablation/hubert.missing").exists()
    (ablation / "weights/hubert").mkdir(parents=True)
    spear = ablation / ".venv/bin/spear"
    spear.write_text(spear.read_text().replace("hubert'*)", "hubert'*weights*) ;;\n*'never'*)"))
    assert ablate(ablation, "in", ENCODERS="whisper hubert", WEIGHTS="weights").returncode == 0
    asked = (ablation / "asked").read_text().splitlines()
    assert "extract-audio-features --encoder hubert --clips out/ablation/clips --weights weights/hubert" in asked
    assert [line.split()[2] for line in asked if line.startswith("train")] == ["hubert"]
    assert "Not measured" not in (ablation / "out/ablation/table3.md").read_text()


def test_any_other_failure_ends_the_ablation(ablation: Path) -> None:
    run = ablate(ablation, "in", ENCODERS="none mfcc whisper")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "error: the disk is full\n")
    assert not (ablation / "out/ablation/mfcc.missing").exists()
    assert ablate(ablation, "in", ENCODERS="none whisper").returncode == 0
    trained = [line.split()[2] for line in (ablation / "asked").read_text().splitlines() if line.startswith("train")]
    assert trained == ["whisper"]


def test_one_table_holds_equal_trainings_only(ablation: Path) -> None:
    assert ablate(ablation, "in", "", "7", ENCODERS="none").returncode == 0
    run = ablate(ablation, "in", ENCODERS="none")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "error: out/ablation holds results of 7 epochs on in, split by clip, not of 30 epochs on in, split by clip; "
        "name another folder with OUT=FOLDER\n"
    )
    assert ablate(ablation, "in", ENCODERS="none", OUT="other").returncode == 0
    assert ablate(ablation).stderr == "usage: bash scripts/ablation.sh VIDEOS [UNSEEN] [EPOCHS]\n"


def table(out: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts/ablation_table.py"
    return subprocess.run([sys.executable, script, out], text=True, capture_output=True, timeout=60, check=False)


def test_the_table_has_mean_and_sample_deviation_over_the_seeds(tmp_path: Path) -> None:
    """1.0, 1.2, 1.4: mean 1.2, deviation sqrt((.04 + 0 + .04) / 2) = .2."""
    for seed, ld, r in ((0, 1.0, 0.5), (1, 1.2, None), (2, 1.4, 0.7)):
        values = {"ld_percent": ld, "lip_opening_r": r, "ld_skill": None}
        for name in ("hubert.raw", "hubert.rigid"):
            (tmp_path / f"{name}.{seed}.seen.json").write_text(json.dumps({"values": values}))
    (tmp_path / "none.rigid.0.unseen.json").write_text('{"values": {"wrong_audio_effect": 0.0}}')
    (tmp_path / "unispeech.missing").write_text("error: no weights; download some\n")
    run = table(tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (tmp_path / "table3.md").read_text()
    rows = [line for line in run.stdout.splitlines() if line.startswith(("| hubert", "| uni", "| none", "## ", "- "))]
    rest = "- | 0.600 ± 0.141 (2 of 3) | - | - | - | - | - | - |"
    assert rows == [
        "## Seen speakers: clips of the test split",
        f"| hubert | rigid | 3 | 1.200 ± 0.200 | - | - | {rest}",
        f"| hubert | raw | 3 | 1.200 ± 0.200 | - | 1.8394 / 1.2813 | {rest}",
        "| unispeech | raw | - | - | - | 2.3756 / 1.8629 | - | - | - | - | - | - | - | - |",
        "## Unseen people: nobody in the training",
        "| unispeech | raw | - | - | - | 2.3756 / 1.8629 | - | - | - | - | - | - | - | - |",
        "| none | rigid | 1 | - | - | - | - | - | - | - | - | - | - | 0.000 |",
        "## Not measured: weights that are missing",
        "- unispeech: no weights; download some",
    ]


def test_a_folder_without_scores_gives_a_line(tmp_path: Path) -> None:
    run = table(tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"error: no scores in {tmp_path}; run `bash scripts/ablation.sh VIDEOS` first\n"


def test_the_ablation_runs_on_tiny_footage(tmp_path: Path, talking_videos: Path) -> None:
    env = os.environ | {"ENCODERS": "mfcc none", "POSES": "rigid", "SEEDS": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    run = subprocess.run(
        ["bash", ROOT / "scripts/ablation.sh", talking_videos, "", "1"], cwd=tmp_path, env=env,
        text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    written = (tmp_path / "out/ablation/table3.md").read_text()
    assert run.stdout.endswith(written)
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[4] for line in written.splitlines() if " | rigid | " in line}
    assert list(rows) == ["mfcc", "none"]
    assert all(float(value) > 0 for value in rows.values())


# --- the bench


def test_the_bench_of_stage_1_steps_through_the_papers_net_and_shows_a_table() -> None:
    bench = runpy.run_path(str(ROOT / "scripts/bench/stage1.py"))
    line = bench["Line"]("x", 12.3456, "s", bar="under 20 s")
    assert bench["shown"]([line]).splitlines() == [
        "what  median  unit  bar         note",
        "x     12.35   s     under 20 s",
    ]
    seconds, _ = bench["_paper_steps"](torch.device("cpu"), batch=1, steps=1, dtype=torch.bfloat16)
    assert seconds > 0
    assert bench["moving_points"](10, seed=0).shape == (10, 131, 2)


def test_the_bench_of_stage_2_scores_frames_of_a_clips_second_half(tmp_path: Path) -> None:
    bench = runpy.run_path(str(ROOT / "scripts/bench/stage2.py"))
    clip = make_clip(tmp_path / "clip", 12)
    with torch.no_grad():
        figures, rows = bench["score_clip"](tiny_lm2face(True), clip, 3)
    assert {len(column) for column in figures.values.values()} == {3}
    means = {name: sum(column) / 3 for name, column in figures.values.items()}
    assert means["hull"] < means["psnr"]  # outside the hull the picture is the true one
    assert means["paste_hull"] > means["hull"]  # a net that was never trained is worse than no net
    assert [row.shape for row in rows] == [(256, 5 * 256, 3)] * 2
    assert np.array_equal(rows[0][:, -256:], read_faces(clip, [6])[0])  # the first of the second half


def test_sharpness_by_hand(tmp_path: Path) -> None:
    """Columns of 0 and 255 in turn: the Laplacian is 2 * 255 and -2 * 255, its variance 510^2; of a plain picture 0."""
    sharpness = runpy.run_path(str(ROOT / "scripts/bench/stage2.py"))["sharpness"]
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert sharpness(np.repeat(stripes[..., None], 3, axis=2), face(20)) == pytest.approx(510**2, rel=0.01)
    assert sharpness(np.full((256, 256, 3), 99, np.uint8), face(20)) == 0


def test_the_bench_of_renders_shows_means_of_what_there_is() -> None:
    bench = runpy.run_path(str(ROOT / "scripts/bench/renders.py"))
    rows = [
        bench["Row"]("self", "a", "a", {"r": 0.5, "lag": 1.0}),
        bench["Row"]("self", "b", "b", {"r": 0.7, "lag": math.nan}),
    ]
    assert bench["table"](rows).splitlines() == [
        "self  sound  r      lag",
        "a     a      0.500  1.000",
        "b     b      0.700  -",
        "mean         0.600  1.000",
    ]
