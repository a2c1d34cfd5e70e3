"""Promises of spear.files: a file that has its name is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from spear.errors import SpearError
from spear.files import read_json, sha256_of, user_cache, whole, write_json, write_text


def test_a_file_appears_whole_with_its_suffix_kept_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.mp4"
    with whole(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".mp4")
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def fail_halfway(path: Path) -> None:
    with whole(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError("mine")


def test_an_error_leaves_no_file_and_no_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        fail_halfway(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="mine"):
        fail_halfway(tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path / "file" / "a.txt": "File exists; choose another folder or change its permissions",
        tmp_path / "file" / "b" / "a.txt": "Not a directory; choose another folder or change its permissions",
        Path("/proc/a.txt"): "No such file or directory; choose another folder or change its permissions",
        tmp_path: "it is a folder; choose another name",
    }
    for path, complaint in cases.items():
        with pytest.raises(SpearError) as caught:
            write_text(path, "text")
        assert str(caught.value) == f"cannot write {path}: {complaint}"


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "ü"})
    write_json(tmp_path / "b.json", {"a": "ü", "b": [1, 2.5, None]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": "ü", "b": [1, 2.5, None]}


def test_nan_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_damaged_json_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("cut.json", "binary.json", "absent.json"):
        with pytest.raises(SpearError) as caught:
            read_json(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"cannot read {tmp_path / name}: ")
        assert message.endswith("; delete it and run the stage that makes it again")
        assert "\n" not in message


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_without_a_cache_folder_of_its_own_it_is_that_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert user_cache() == tmp_path / "home" / ".cache" / "spear"
