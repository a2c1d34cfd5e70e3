"""The score of the reliability tests: counted in every test process, printed at the end by scripts/reliability.sh."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import talker, voice
from made_up import make_clip

from reliability.outcome import Outcome
from spear.audio import write_wav
from spear.clip import FPS
from spear.stages.preprocess import preprocess

COUNTS = {
    "tried": "bad inputs tried",
    "clear": "clear one-line errors",
    "coped": "coped with, or said in a report",
    "tracebacks": "tracebacks and signals",
    "partial": "partial outputs, temporary files left",
    "hangs": "hangs",
    "bytes_lost": "bytes lost",
}


class Tally:
    """Counts that the processes of pytest-xdist add to one file, $SPEAR_TALLY; without it they go nowhere."""

    def add(self, **counts: int) -> None:
        """Count: tried, clear, coped, tracebacks, partial, hangs, bytes_lost."""
        assert counts.keys() <= COUNTS.keys(), counts
        if where := os.environ.get("SPEAR_TALLY"):
            with open(where, "a", encoding="utf-8") as file:  # short lines in append mode do not mix
                file.write(json.dumps(counts) + "\n")

    def judge(self, outcome: Outcome) -> Outcome:
        """Count one bad input by how the command ended; the same outcome, for the assertions."""
        self.add(
            tried=1, clear=outcome.clear, coped=outcome.done, tracebacks=outcome.traceback, hangs=outcome.hung,
            partial=len(outcome.partial) + len(outcome.left),
        )  # fmt: skip
        return outcome


@pytest.fixture(scope="session")
def tally() -> Tally:
    """Where the tests count what they try."""
    return Tally()


@pytest.fixture(scope="session")
def tiny_talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 16 frames with sound, 60 kB."""
    return talker(tmp_path_factory.mktemp("tiny") / "talker.mp4", 0, 16 / FPS)


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech for 8 frames."""
    path = tmp_path_factory.mktemp("tiny") / "speech.wav"
    write_wav(path, voice(seed=99, seconds=8 / FPS)[0])
    return path


@pytest.fixture(scope="session")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clips/ with a clip of each split, with landmarks and mfcc; nobody may change it."""
    folder = tmp_path_factory.mktemp("made") / "clips"
    for number, split in enumerate(("train", "val", "test")):
        make_clip(folder / f"c{number}", seed=number, split=split)
    return folder


@pytest.fixture(scope="session")
def talker_clips(tmp_path_factory: pytest.TempPathFactory, tiny_talker: Path) -> Path:
    """clips/ with a clip of a face that the detector finds, without landmarks; nobody may change it."""
    clips = tmp_path_factory.mktemp("found") / "clips"
    preprocess([tiny_talker], clips)
    return clips


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the score, in the one process that has the reports of all."""
    where = os.environ.get("SPEAR_TALLY")
    if where is None or hasattr(terminalreporter.config, "workerinput"):
        return
    total: Counter[str] = Counter()
    for line in Path(where).read_text(encoding="utf-8").splitlines():
        total.update(json.loads(line))
    stats = terminalreporter.stats
    ends = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    terminalreporter.section("reliability")
    terminalreporter.write_line(f"tests run: {ends['passed'] + ends['failed'] + ends['error']}")
    for name, count in ends.items():
        terminalreporter.write_line(f"  {name}: {count}")
    for name, words in COUNTS.items():
        terminalreporter.write_line(f"{words}: {total[name]}")
