from __future__ import annotations

from pathlib import Path

import pytest

from mesh.task import logs
from mesh.task.logs import LogReader, LogWriter, drop_middle, trim
from mesh.task.processes import LINUX

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


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return tmp_path / "capture"


@pytest.mark.skipif(not LINUX, reason="needs holes in files")
def test_the_middle_of_a_capture_is_dropped_while_it_is_written_and_read(
    tmp_path: Path, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kib = 1 << 10  # holes have whole blocks
    for name in ("HEAD_BYTES", "TAIL_BYTES", "HOLE_BYTES", "CHUNK_BYTES"):
        monkeypatch.setattr(logs, name, 64 * kib)
    folder, pieces = tmp_path / "attempt", [bytes([n]) * (64 * kib) for n in range(1, 10)]
    reader = LogReader(folder)
    with capture.open("ab", buffering=0) as file:
        file.write(b"".join(pieces[:3]))
        assert everything(reader, capture) == b"".join(pieces[:3])
        drop_middle(capture)
        assert capture.stat().st_blocks * 512 < 3 * 64 * kib
        file.write(b"".join(pieces[3:6]))
        drop_middle(capture)
        marker = f"\n[... {2 * 64 * kib} bytes dropped ...]\n".encode()
        assert everything(reader, capture) == marker + pieces[5]
        file.write(b"".join(pieces[6:]) + b"end")
        assert everything(reader, capture) == b"".join(pieces[6:]) + b"end"
    folder.mkdir()
    capture.rename(folder / "log")
    trim(folder / "log")
    assert everything(reader) == b""
    tail = pieces[8][3:] + b"end"
    marker = f"\n[... {7 * 64 * kib + 3} bytes dropped ...]\n".encode()
    assert everything(LogReader(folder)) == pieces[0] + marker + tail


def test_a_log_that_nobody_writes_is_trimmed_to_head_and_tail(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(0, 100))
    trim(tmp_path / "log")
    assert everything(LogReader(tmp_path)) == lines(0, 10) + b"\n[... 820 bytes dropped ...]\n" + lines(92, 100)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 180
    (tmp_path / "log.920").unlink()
    (tmp_path / "log").write_bytes(lines(0, 18))
    trim(tmp_path / "log")
    assert everything(LogReader(tmp_path)) == lines(0, 18)
