"""A list of renders: what it may say, and the line that tells where it cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from spear.errors import SpearError
from spear.render_list import Row, read_list

SUFFIXES = (".mp4", ".mov", ".mkv")


def lines(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    table = lines(tmp_path / "a.csv", "out,ref,audio,note", "x/1.mp4,face.png,s.wav,first", '2.mov,/f.mp4,"a,b.wav",')
    other = lines(
        tmp_path / "a.jsonl",
        '{"out": "x/1.mp4", "ref": "face.png", "audio": "s.wav"}',
        "",
        '{"out": "2.mov", "ref": "/f.mp4", "audio": "a,b.wav"}',
    )
    for path in (table, other):
        assert read_list(path, None, SUFFIXES) == [
            Row("x/1.mp4", tmp_path / "s.wav", tmp_path / "face.png", tmp_path / "x/1.mp4"),
            Row("2.mov", tmp_path / "a,b.wav", Path("/f.mp4"), tmp_path / "2.mov"),
        ]
        assert [row.out for row in read_list(path, Path("made"), SUFFIXES)] == [
            Path("made/x/1.mp4"),
            Path("made/2.mov"),
        ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("s.wav,f.png,/tmp/1.mp4", ", line 2: out /tmp/1.mp4 leaves the folder; give a path below it, and the folder"),
        ("s.wav,f.png,a/../../1.mp4", ", line 2: out a/../../1.mp4 leaves the folder; "),
        ("s.wav,f.png,1.avi", ", line 2: out 1.avi does not end in .mp4, .mov, .mkv; give it a name that does"),
        ("s.wav,,1.mp4", ", line 2: wants text for audio, ref and out, has 's.wav', '', '1.mp4'"),
        ("s.wav", ", line 2: wants text for audio, ref and out, has 's.wav', None, None"),
        ("s.wav,1.mp4,1.mp4", ": 1.mp4 is both an out and an audio or ref; give it another name"),
        ("s.wav,f.png,1.mp4\ns.wav,g.png,1.mp4", ", line 3: out 1.mp4 is there twice; give each"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line(row: str, message: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.csv", "audio,ref,out", row)
    with pytest.raises(SpearError) as caught:
        read_list(path, None, SUFFIXES)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("content", [b"", b"audio,ref,out\n"])
def test_an_empty_list_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SpearError, match="has no row; give one with audio, ref, out for each render"):
        read_list(tmp_path / "a.csv", None, SUFFIXES)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"out": 3'])
def test_a_damaged_list_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(SpearError, match=f"cannot read {path}: .*; mend the list"):
        read_list(path, None, SUFFIXES)
    with pytest.raises(SpearError, match=r"cannot read .*: No such file or directory; mend the list"):
        read_list(tmp_path / "none.csv", None, SUFFIXES)
    with pytest.raises(SpearError, match=r"ends neither in \.csv nor in \.jsonl; give a list with audio, ref, out"):
        read_list(tmp_path / "a.txt", None, SUFFIXES)
