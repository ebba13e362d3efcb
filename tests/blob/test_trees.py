"""That a directory comes back as it was, that only what is meant to be is in it, and that no blob writes elsewhere."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.blob.entries import DIRECTORY, FILE, HEAD_BYTES, MAGIC, SYMLINK, Entry, faults
from mesh.blob.manifest import CHUNK_BYTES, cut, digest
from mesh.blob.trees import File, extract, listing, scan
from mesh.core.errors import BlobCorrupt, Conflict, InvalidSpec, QuotaExceeded

Read = Callable[[int, memoryview], object]


def reader(blob: bytes) -> Read:
    def read(offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(blob), "it reads past the end"
        buffer[:] = blob[offset : offset + len(buffer)]

    return read


def saved(directory: Path, ignore: bool = True) -> bytes:
    tree = scan(directory, ignore)
    blob = b"".join(tree.segments())
    assert len(blob) == tree.size
    return blob


def fill(top: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return top


def seen(top: Path) -> dict[str, object]:
    """Everything below: of a file its bytes and whether it is executable, of a link its target."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = DIRECTORY
        else:
            found[name] = path.read_bytes(), os.access(path, os.X_OK)
    return found


# --- round trips -----------------------------------------------------------------------------------------------------


def sample(top: Path) -> Path:
    fill(top, {"train.py": "run", "data/big": bytes(range(256)) * 8193, "data/none": b"", "src/a/b.py": "b"})
    (top / "train.py").chmod(0o755)
    (top / "empty").mkdir()
    (top / "latest").symlink_to("data/big")
    (top / "src/up").symlink_to("../data")
    (top / "src/dangling").symlink_to("a/not yet")
    (top / "größe \n✓").write_text("name")
    return top


def test_a_directory_comes_back_as_it_was(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))
    extract(len(blob), reader(blob), tmp_path / "some/new/place")
    assert seen(tmp_path / "some/new/place") == seen(tmp_path / "from")
    assert [path.name for path in tmp_path.joinpath("some/new").iterdir()] == ["place"]


def test_equal_files_are_equal_bytes_whenever_and_however_they_were_made(tmp_path: Path) -> None:
    first = sample(tmp_path / "first")
    blob = saved(first)
    second = tmp_path / "second"
    extract(len(blob), reader(blob), second)
    os.utime(second / "train.py", (1, 1))
    (second / "train.py").chmod(0o744)
    (second / "data/none").chmod(0o600)
    assert saved(second) == blob


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..", ".git", "__pycache__")
)
folders: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(names, st.binary(max_size=50), max_size=3),
    lambda inner: st.dictionaries(names, inner | st.binary(max_size=50), max_size=3),
    max_leaves=6,
)


def lay(top: Path, folder: dict[str, Any]) -> None:
    top.mkdir()
    for name, content in folder.items():
        if isinstance(content, dict):
            lay(top / name, content)
        else:
            (top / name).write_bytes(content)


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks do not tell case apart")
@given(folders)
def test_any_directory_comes_back_or_is_refused_where_it_is(
    tmp_path_factory: pytest.TempPathFactory, folder: dict[str, Any]
) -> None:
    work = tmp_path_factory.mktemp("any")
    lay(work / "from", folder)
    try:
        blob = saved(work / "from", ignore=False)
    except InvalidSpec as error:
        assert "case or accents" in str(error)  # noqa: PT017
    else:
        extract(len(blob), reader(blob), work / "to")
        assert seen(work / "to") == seen(work / "from")
    shutil.rmtree(work)


def test_a_file_is_just_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(2 * CHUNK_BYTES + 5))
    (tmp_path / "link").symlink_to(path)
    for file in (File(path), File(tmp_path / "link")):
        assert file.size == 2 * CHUNK_BYTES + 5
        pieces = list(file.segments())
        assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, 5]
        assert b"".join(pieces) == path.read_bytes()
    with pytest.raises(InvalidSpec, match="is no file"):
        File(tmp_path)


def test_a_file_that_did_not_change_is_the_same_chunks_again(tmp_path: Path) -> None:
    fill(tmp_path, {"a": os.urandom(CHUNK_BYTES + 7), "b": os.urandom(CHUNK_BYTES * 2), "c": "text"})
    before = [digest(piece) for piece in cut(scan(tmp_path).segments())]
    fill(tmp_path, {"a": "short now"})
    after = [digest(piece) for piece in cut(scan(tmp_path).segments())]
    assert before[3:] == after[2:]
    assert len(after) == 1 + 1 + 2 + 1


def test_a_directory_can_be_listed_without_its_files(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))
    start = HEAD_BYTES + int.from_bytes(blob[len(MAGIC) : HEAD_BYTES], "big")
    found = listing(len(blob), reader(blob[:start]))
    assert found == scan(tmp_path / "from").entries
    assert Entry("train.py", FILE, 3, True) in found
    assert Entry("src/up", SYMLINK, target="../data") in found


def test_what_is_largest(tmp_path: Path) -> None:
    fill(tmp_path, {f"data/{n}": bytes(40) for n in range(5)})
    fill(
        tmp_path,
        {"runs/one/best.pt": bytes(90), "runs/one/log": bytes(8), "runs/two/log": bytes(9), "train.py": bytes(60)},
    )
    tree = scan(tmp_path)
    assert tree.largest(4) == [("data/", 200), ("runs/one/best.pt", 90), ("train.py", 60), ("data/0", 40)]
    assert tree.largest(1) == [("data/", 200)]


# --- what is left out ------------------------------------------------------------------------------------------------


def test_what_ignore_files_name_is_left_out(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            ".gitignore": "*.log\n!keep.log\nbuild/\n/top\nlocal.py\r\n!\n",
            ".meshignore": "data/**\n!data/small\n!local.py\n",
            ".git/HEAD": "",
            "__pycache__/a.pyc": "",
            "a.log": "",
            "keep.log": "",
            "local.py": "",
            "top": "",
            "data/large": "",
            "data/small": "",
            "build/x": "",
            "src/.gitignore": "!build/\n*.log\n",
            "src/build/x": "",
            "src/keep.log": "",
            "src/top": "",
            "src/__pycache__/b.pyc": "",
            "sub/.git": "gitdir: elsewhere",
        },
    )
    assert [entry.path for entry in scan(tmp_path).entries if entry.kind == FILE] == [
        ".gitignore",
        ".meshignore",
        "data/small",
        "keep.log",
        "local.py",
        "src/.gitignore",
        "src/build/x",
        "src/top",
    ]
    everything = {entry.path for entry in scan(tmp_path, ignore=False).entries if entry.kind == FILE}
    assert {"a.log", "top", "data/large", "build/x", "src/keep.log"} < everything
    assert not any(".git" in Path(path).parts or "__pycache__" in path for path in everything)


LINES = """
a b/ *.log !keep !keep/ * !*/ !*.py /a a/b a/* a/** **/b a/**/b */ **/ a/**/ !a !a/ !b build/ !build/x.log /* !/a ? / //
[ab] [!a] \\!keep #c ! ** !**/keep x.* /a/ a/b/ **/a/** b/**/ !a/b/ *.l[o]g /**/x.log a//b build/** !build/** /** !x.log
!a/b
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")
@pytest.mark.parametrize("seed", range(25))
def test_git_leaves_out_the_same(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)

    def grow(folder: Path, depth: int) -> None:
        for name in draw.sample(["a", "b", "x.log", "keep", "y.py", "build"], draw.randint(1, 4)):
            if depth and draw.random() < 0.6 and "." not in name:
                (folder / name).mkdir()
                grow(folder / name, depth - 1)
            else:
                (folder / name).write_text("")
        if depth == 3 or draw.random() < 0.4:
            (folder / ".gitignore").write_text("\n".join(draw.choices(LINES.split(), k=draw.randint(1, 4))))

    grow(tmp_path, 3)
    git = ["git", "-c", "core.excludesFile=", "-c", "core.ignoreCase=false", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run([*git, "ls-files", "-o", "--exclude-standard", "-z"], check=True, capture_output=True)
    expected = sorted(filter(None, listed.stdout.decode().split("\0")))
    assert [entry.path for entry in scan(tmp_path).entries if entry.kind != DIRECTORY] == expected


# --- what cannot be saved --------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks take no such names")
def test_all_that_cannot_be_saved_is_named_at_once(tmp_path: Path) -> None:
    top = fill(tmp_path / "top", {"data/ok": "", "A": "", "a": "", "two\\parts": "", "long" * 60: ""})
    (top / "data/out").symlink_to("../../elsewhere")
    (top / "absolute").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    Path(os.fsdecode(os.fsencode(top) + b"/bytes\xff")).write_text("")
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(InvalidSpec) as raised:
        scan(top)
    assert [problem.text for problem in raised.value.problems] == [
        "'a' and 'A' are one name where case or accents are not told apart",
        "'absolute' is a link to '/etc/passwd', which is absolute",
        "'bytes\\udcff' is not UTF-8",
        "'data/out' is a link to '../../elsewhere', which leaves the directory",
        "'pipe' is a pipe",
        "'socket' is a socket",
        "'two\\\\parts' has a NUL or a backslash, which not every system takes",
    ]
    assert "7 things" in str(raised.value)
    (top / ".meshignore").write_text("pipe\nsocket\nabsolute\ndata/out\nbytes*\ntwo*\n/A\n")
    assert [entry.path for entry in scan(top).entries] == [".meshignore", "a", "data", "data/ok", "long" * 60]


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.blob.entries.INDEX_BYTES", 1000)
    with pytest.raises(QuotaExceeded, match=r"too many files: 30.*pack them"):
        scan(fill(tmp_path, {str(n): "" for n in range(30)}))


def test_what_is_no_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", fill(tmp_path, {"file": ""}) / "file"):
        with pytest.raises(InvalidSpec, match="is no directory"):
            scan(path)


def grows(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrinks(path: Path) -> None:
    os.truncate(path, 3)


def is_rewritten(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(1, 1))


def is_replaced(path: Path) -> None:
    stamp = path.stat()
    (path.parent / "other").write_bytes(path.read_bytes())
    os.utime(path.parent / "other", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.rename(path.parent / "other", path)


def becomes_a_link(path: Path) -> None:
    path.rename(path.parent / "other")
    path.symlink_to("other")


def becomes_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def becomes_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [
    grows,
    shrinks,
    is_rewritten,
    is_replaced,
    becomes_a_link,
    becomes_a_pipe,
    becomes_a_directory,
    Path.unlink,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changed_since_the_scan_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    tree = scan(fill(tmp_path, {"first": "1", "sub/data": bytes(100)}))
    change(tmp_path / "sub/data")
    with pytest.raises(Conflict, match=r"sub/data changed while it was read"):
        list(tree.segments())


@pytest.mark.parametrize("change", [grows, shrinks, is_rewritten], ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    pieces = scan(fill(tmp_path, {"data": bytes(2 * CHUNK_BYTES)})).segments()
    next(pieces)
    next(pieces)
    change(tmp_path / "data")
    with pytest.raises(Conflict, match="data changed while it was read"):
        list(pieces)


# --- what may not be written -----------------------------------------------------------------------------------------


def crafted(entries: object, data: bytes = b"", version: object = 1) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps({"version": version, "entries": entries}).encode()
    return MAGIC + len(raw).to_bytes(8, "big") + raw + data


def file(path: object, size: object = 0, executable: object = False) -> dict[str, Any]:
    return {"path": path, "kind": "file", "size": size, "executable": executable}


def folder(path: str) -> dict[str, Any]:
    return {"path": path, "kind": "dir"}


def link(path: str, target: object) -> dict[str, Any]:
    return {"path": path, "kind": "symlink", "target": target}


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is no directory"),
    "a file": (b"x" * 100, "it is no directory"),
    "a head alone": (MAGIC + bytes(8), "an index of 0 bytes"),
    "a huge index": (MAGIC + b"\xff" * 8 + b"{}", "an index of 18446744073709551615 bytes"),
    "an index cut short": (crafted([])[:-1], "bytes in a blob of"),
    "no JSON": (crafted(b"{]"), "the index: "),
    "no text": (crafted(b'{"\xff": 1}'), "the index: "),
    "nested deeply": (crafted(b"[" * 100_000), "the index: "),
    "a name twice": (crafted(b'{"version": 1, "entries": [], "entries": []}'), "a name occurs twice"),
    "another version": (crafted([], version=2), "another version"),
    "a version of text": (crafted([], version="1"), "another version"),
    "entries of no list": (crafted({}), "no list"),
    "an entry of no object": (crafted(["a"]), "is no entry"),
    "a path of no text": (crafted([file(3)]), "is no entry"),
    "a path missing": (crafted([{"kind": "dir"}]), "is no entry"),
    "another kind": (crafted([{"path": "a", "kind": "device"}]), "is no entry"),
    "a field too many": (crafted([file("a") | {"owner": 0}]), "is no entry"),
    "a target of a file": (crafted([file("a") | {"target": "b"}]), "is no entry"),
    "a file without size": (crafted([{"path": "a", "kind": "file", "executable": True}]), "is no entry"),
    "a negative size": (crafted([file("a", -1), file("b", 1)]), "is no entry"),
    "a size of truth": (crafted([file("a", True)], b"x"), "is no entry"),
    "half a byte": (crafted([file("a", 0.5)], b"x"), "is no entry"),
    "executable as a number": (crafted([file("a", 0, 1)]), "is no entry"),
    "a target of no text": (crafted([link("a", 1)]), "is no entry"),
    "not sorted": (crafted([file("b"), file("a")]), "not sorted"),
    "a path twice": (crafted([file("a"), file("a")]), "not sorted, or one is there twice"),
    "sizes too small": (crafted([file("a", 3)], b"four"), "should take 3 bytes, and take 4"),
    "sizes too large": (crafted([file("a", 3), file("b", 2)], b"four"), "should take 5 bytes, and take 4"),
    "an absolute path": (crafted([file("/etc/passwd")]), "is absolute"),
    "no path": (crafted([file("")]), "has a part that is empty"),
    "a path above": (crafted([file("../a")]), "has a part that is empty, '.' or '..'"),
    "a path above in the middle": (crafted([folder("a"), file("a/../b")]), "has a part"),
    "a path of here": (crafted([file("./a")]), "has a part"),
    "here": (crafted([folder(".")]), "has a part"),
    "an empty part": (crafted([folder("a"), file("a//b")]), "has a part"),
    "a slash at the end": (crafted([folder("a/")]), "has a part"),
    "a NUL": (crafted([file("a\0b")]), "a NUL or a backslash"),
    "a backslash": (crafted([file("..\\a")]), "a NUL or a backslash"),
    "half a character": (crafted([file("\ud800")]), "is not UTF-8"),
    "a long name": (crafted([file("é" * 128)]), "a name of more than 255 bytes"),
    "a long path": (crafted([file("/".join(["abc"] * 251))]), "more than 1000 bytes"),
    "below a file": (crafted([file("a"), file("a/b")]), "lies below what is no directory"),
    "below a link": (crafted([link("a", "."), file("a/b")]), "lies below what is no directory"),
    "below nothing": (crafted([file("a/b")]), "lies below what is no directory"),
    "below another case": (crafted([folder("A"), file("a/b")]), "lies below what is no directory"),
    "two cases": (crafted([file("A"), file("a")]), "are one name where case"),
    "two cases of a directory": (crafted([folder("A"), link("a", "A")]), "are one name where case"),
    "two accents": (crafted([file("e\u0301"), file("\xe9")]), "are one name where case or accents"),
    "a file in place of a link": (crafted([link("A", "b"), file("a")]), "are one name where case"),
    "an absolute link": (crafted([link("a", "/etc")]), "is absolute"),
    "a link above": (crafted([link("a", "..")]), "leaves the directory"),
    "a link far above": (crafted([folder("d"), link("d/a", "../../x")]), "leaves the directory"),
    "a link out and in again": (crafted([folder("d"), link("d/a", "../../top/x")]), "leaves the directory"),
    "a link of nothing": (crafted([link("a", "")]), "is empty"),
    "a link with a backslash": (crafted([link("a", "..\\..")]), "a NUL or a backslash"),
    "a link with a NUL": (crafted([link("a", "b\0")]), "a NUL or a backslash"),
    "a long link": (crafted([link("a", "b" * 1001)]), "more than 1000 bytes"),
    "a link to itself": (crafted([link("a", "a")]), "round in circles"),
    "links to each other": (crafted([link("a", "b"), link("b", "a")]), "round in circles"),
    # d/e/top is the top, so d/e/top/.. is above it, whatever its text says.
    "a link above through a link": (
        crafted([link("a", "d/e/top/../x"), folder("d"), folder("d/e"), link("d/e/top", "../..")]),
        "leaves the directory",
    ),
    "and where case is not told apart": (
        crafted([link("a", "D/E/TOP/../x"), folder("d"), folder("d/e"), link("d/e/top", "../..")]),
        "leaves the directory",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    blob, says = BAD[case]
    with pytest.raises(BlobCorrupt) as raised:
        extract(len(blob), reader(blob), tmp_path / "here/to")
    assert raised.value.what == "this blob holds no directory that can be read"
    assert says in raised.value.why
    assert list(tmp_path.iterdir()) == []


GOOD = [
    [folder("a"), folder("a/b"), link("a/b/c", "../../x"), file("x")],
    [link("a", "."), link("b", "a/a/a/b2"), file("b2")],
    [link("a", "nowhere/at/all")],
    [folder("d"), link("d/top", ".."), link("e", "d/top/d/../d")],
    [file("a-b"), folder("aa"), file("aa/b")],
    [],
]


@pytest.mark.parametrize("entries", GOOD)
def test_what_stays_inside_is_written(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    blob = crafted(sorted(entries, key=lambda fields: str(fields["path"])))
    extract(len(blob), reader(blob), tmp_path / "to")
    assert sorted(seen(tmp_path / "to")) == sorted(str(fields["path"]) for fields in entries)


parts = st.sampled_from(["a", "b", "..", "."])
targets = st.lists(parts, min_size=1, max_size=5).map("/".join)
homes = st.sampled_from(["", "d/", "d/e/"])


@given(st.dictionaries(st.tuples(homes, st.sampled_from("ab")).map("".join), targets, max_size=4))
def test_no_link_that_is_taken_leads_out(tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]) -> None:
    """Against the system itself, which follows the links that were written."""
    made = sorted(
        [Entry("d", DIRECTORY), Entry("d/e", DIRECTORY), *(Entry(p, SYMLINK, target=t) for p, t in links.items())]
    )
    if list(faults(made)):
        return
    top = tmp_path_factory.mktemp("links") / "one/two/three/top"
    (top / "d/e").mkdir(parents=True)
    for path, target in links.items():
        (top / path).symlink_to(target)
    for path in links:
        assert Path(os.path.realpath(top / path)).is_relative_to(os.path.realpath(top)), path
    shutil.rmtree(top)


def test_a_directory_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))
    before = seen(fill(tmp_path / "to", {"mine": "keep"}))
    (tmp_path / "file").write_text("keep")
    for name in ("to", "file"):
        with pytest.raises(Conflict, match=r"is there and not an empty directory"):
            extract(len(blob), reader(blob[:-1]), tmp_path / name)  # its files are not even read
    assert seen(tmp_path / "to") == before
    assert (tmp_path / "file").read_text() == "keep"


def test_an_empty_directory_may_be_there(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to("real")
    extract(len(blob), reader(blob), tmp_path / "to")
    assert seen(tmp_path / "real") == seen(tmp_path / "from")


def test_what_comes_there_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))

    def read(offset: int, buffer: memoryview) -> None:
        reader(blob)(offset, buffer)
        if offset > HEAD_BYTES:  # of the first file
            fill(tmp_path / "to", {"mine": "keep"})

    with pytest.raises(Conflict, match="not an empty directory"):
        extract(len(blob), read, tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to"]
    assert list(seen(tmp_path / "to")) == ["mine"]


def reads(blob: bytes, directory: Path) -> Iterator[int]:
    """How often each extraction of it reads, failing one read later each time, until one succeeds."""
    for limit in range(1000):
        left = limit

        def read(offset: int, buffer: memoryview) -> None:
            nonlocal left
            if left == 0:
                raise ConnectionError("gone")
            left -= 1
            reader(blob)(offset, buffer)

        try:
            extract(len(blob), read, directory)
        except ConnectionError:
            yield limit
        else:
            return


def test_an_extraction_that_breaks_anywhere_leaves_nothing(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))
    broken = 0
    for _ in reads(blob, tmp_path / "to"):
        broken += 1
        assert [path.name for path in tmp_path.iterdir()] == ["from"]
    assert broken > 5
    assert seen(tmp_path / "to") == seen(tmp_path / "from")


def test_it_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    blob = saved(sample(tmp_path / "from"))

    def read(offset: int, buffer: memoryview) -> None:
        assert not (tmp_path / "to").exists()
        reader(blob)(offset, buffer)

    extract(len(blob), read, tmp_path / "to")


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = saved(sample(tmp_path / "from"))

    def full(target: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(QuotaExceeded, match="the disk is full"):
        extract(len(blob), reader(blob), tmp_path / "to")
    assert [path.name for path in tmp_path.iterdir()] == ["from"]
