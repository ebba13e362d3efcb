from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from mesh.task import logs
from mesh.task.logs import LogReader, LogWriter, trim

LINE = b"%09d\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"HEAD_BYTES": 100, "TAIL_BYTES": 80, "SEGMENT_BYTES": 20, "CHUNK_BYTES": 30}.items():
        monkeypatch.setattr(logs, name, size)


def lines(first: int, last: int) -> bytes:
    return b"".join(LINE % n for n in range(first, last))


def everything(reader: LogReader, capture: Path | None = None) -> bytes:
    return b"".join(iter(lambda: reader.read(capture), b""))


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "a")
    writer.close()
    assert not (tmp_path / "a").exists()
    assert everything(LogReader(tmp_path / "a")) == b""


@pytest.mark.parametrize("size", [1, 9, 10, 11, 18])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_what_fits_is_kept_whole(tmp_path: Path, size: int, piece: int) -> None:
    writer, data = LogWriter(tmp_path), lines(0, size)
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
    writer.close()
    assert everything(LogReader(tmp_path)) == data


def test_head_and_tail_stay_and_the_dropped_are_counted(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    for n in range(100):
        writer.write(LINE % n)
    writer.close()
    assert everything(LogReader(tmp_path)) == lines(0, 10) + b"\n[... 820 bytes dropped ...]\n" + lines(92, 100)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 180


def test_a_follower_misses_nothing_that_is_still_there(tmp_path: Path) -> None:
    writer, reader, seen = LogWriter(tmp_path), LogReader(tmp_path), b""
    for n in range(60):
        writer.write(LINE % n)
        seen += everything(reader)
    for n in range(60, 100):
        writer.write(LINE % n)
    seen += everything(reader)
    assert seen == lines(0, 60) + b"\n[... 320 bytes dropped ...]\n" + lines(92, 100)


def test_a_capture_is_trimmed_while_it_is_written_and_read(tmp_path: Path) -> None:
    capture, folder = tmp_path / "capture", tmp_path / "attempt"
    reader = LogReader(folder)
    with capture.open("ab", buffering=0) as file:
        file.write(lines(0, 30))
        assert everything(reader, capture) == lines(0, 30)
        trim(capture, folder)
        file.write(lines(30, 32))
        assert everything(reader, capture) == lines(30, 32)
        file.write(lines(32, 100))
    trim(capture, folder)
    capture.rename(folder / "log")
    assert everything(reader) == b"\n[... 600 bytes dropped ...]\n" + lines(92, 100)
    assert everything(LogReader(folder)) == lines(0, 10) + b"\n[... 820 bytes dropped ...]\n" + lines(92, 100)


def test_only_one_trims(tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    capture.write_bytes(lines(0, 50))
    with capture.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        trim(capture, tmp_path / "attempt")
    assert capture.stat().st_size == 500
