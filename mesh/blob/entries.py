"""The index of a directory: what lies in it, and what may. Knows names and sizes, no disk.

Layout: ``MAGIC``, the length of what follows (unsigned, 64 bits, big endian), then JSON: the version and the entries,
sorted by path. Neither times nor owners, so equal files are equal bytes everywhere. What is refused when a directory is
read is refused when it is scanned as well: no blob is made that cannot be read on every machine.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

from mesh.core.errors import BlobCorrupt, QuotaExceeded

MAGIC = b"computemesh tree 1\n"
HEAD_BYTES = len(MAGIC) + 8
VERSION = 1
INDEX_BYTES = 100_000_000

DIRECTORY, FILE, SYMLINK = "dir", "file", "symlink"

NAME_BYTES = 255  # of one name; what file systems take
PATH_BYTES = 1000  # macOS takes 1024 with what stands before
STEPS = 1000  # of following one link through others


def is_tree(head: bytes) -> bool:
    """Whether a blob that begins so is a directory. Give ``HEAD_BYTES`` of it."""
    return head.startswith(MAGIC)


class Entry(NamedTuple):
    path: str  # from the top, parts joined by "/"
    kind: str  # dir, file or symlink
    size: int = 0  # bytes, of a file
    executable: bool = False  # of a file
    target: str = ""  # of a symlink, as it is written there

    def fields(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.kind == FILE:
            more = {"size": self.size, "executable": self.executable}
        elif self.kind == SYMLINK:
            more = {"target": self.target}
        return {"path": self.path, "kind": self.kind, **more}


def encode(entries: Sequence[Entry]) -> bytes:
    """The index of these entries, which have no faults.

    Raises:
        QuotaExceeded: they are too many.
    """
    index = {"version": VERSION, "entries": [entry.fields() for entry in entries]}
    text = json.dumps(index, separators=(",", ":")).encode()
    if len(text) > INDEX_BYTES:
        raise QuotaExceeded(
            f"the directory has too many files: {len(entries)}",
            f"their names take {len(text) / 1e6:.0f} MB, and {INDEX_BYTES / 1e6:.0f} are allowed",
            "pack them into one archive",
        )
    return MAGIC + len(text).to_bytes(8, "big") + text


def index_size(head: bytes, size: int) -> int:
    """Bytes of the JSON after the head of a blob of ``size`` bytes.

    Raises:
        BlobCorrupt: it is no directory, or says that it has more than there is.
    """
    if not head.startswith(MAGIC) or len(head) != HEAD_BYTES:
        corrupt("it is no directory, or one of another version")
    announced = int.from_bytes(head[len(MAGIC) :], "big")
    if not 2 <= announced <= min(size - HEAD_BYTES, INDEX_BYTES):
        corrupt(f"an index of {announced} bytes in a blob of {size}")
    return announced


def parse(text: bytes, data: int) -> tuple[Entry, ...]:
    """The entries of an index whose files take ``data`` bytes.

    Raises:
        BlobCorrupt: no such index, or one of a directory that nobody may write to a disk.
    """
    try:
        index = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BlobCorrupt("this blob holds no directory that can be read", f"the index: {error}") from None
    if not isinstance(index, dict) or index.keys() != {"version", "entries"} or index["version"] != VERSION:
        corrupt("its index is of another version")
    if not isinstance(index["entries"], list):
        corrupt("its entries are no list")
    entries = tuple([_entry(fields) for fields in index["entries"]])
    if any(one.path >= other.path for one, other in pairwise(entries)):
        corrupt("its entries are not sorted, or one is there twice")
    for fault in faults(entries):
        corrupt(fault)
    if (total := sum(entry.size for entry in entries)) != data:
        corrupt(f"its files should take {total} bytes, and take {data}")
    return entries


def faults(entries: Sequence[Entry]) -> Iterator[str]:
    """What keeps these entries from being written to any disk, each with its path."""
    known: dict[str, Entry] = {}
    for entry in entries:
        if fault := _name_fault(entry.path):
            yield f"{entry.path!r:.200} {fault}"
            continue
        parent = entry.path.rpartition("/")[0]
        above = known.get(_folded(parent))
        if parent and (above is None or above.path != parent or above.kind != DIRECTORY):
            yield f"{entry.path!r} lies below what is no directory"
        folded = _folded(entry.path)
        if (other := known.setdefault(folded, entry)) is not entry:
            yield f"{entry.path!r} and {other.path!r} are one name where case or accents are not told apart"
    for entry in entries:
        if entry.kind == SYMLINK and (fault := _link_fault(entry, known)):
            yield f"{entry.path!r:.200} is a link to {entry.target!r:.200}, which {fault}"


def corrupt(why: str) -> NoReturn:
    raise BlobCorrupt("this blob holds no directory that can be read", why)


def _name_fault(path: str) -> str:
    if fault := _text_fault(path):
        return fault
    parts = path.split("/")
    if path.startswith("/"):
        return "is absolute"
    if any(part in ("", ".", "..") for part in parts):
        return "has a part that is empty, '.' or '..'"
    if max(len(part.encode()) for part in parts) > NAME_BYTES:
        return f"has a name of more than {NAME_BYTES} bytes"
    return ""


def _text_fault(path: str) -> str:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if "\0" in path or "\\" in path:
        return "has a NUL or a backslash, which not every system takes"
    return f"has more than {PATH_BYTES} bytes" if len(encoded) > PATH_BYTES else ""


def _link_fault(link: Entry, known: Mapping[str, Entry]) -> str:
    """Follows it as a system would, through other links too: ``a/..`` is not where ``a`` stands if that is a link."""
    if fault := _text_fault(link.target):
        return fault
    if not link.target:
        return "is empty"
    if link.target.startswith("/"):
        return "is absolute"
    at = link.path.split("/")[:-1]
    ahead = link.target.split("/")[::-1]
    steps = 0
    while ahead:
        steps += 1
        if steps > STEPS:
            return "goes through too many others, or round in circles"
        part = ahead.pop()
        if part == ".." and not at:
            return "leaves the directory"
        if part == "..":
            at.pop()
        elif part not in ("", "."):
            at.append(part)
            met = known.get(_folded("/".join(at)))
            if met is not None and met.kind == SYMLINK:
                at.pop()
                ahead += met.target.split("/")[::-1]
    return ""


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _entry(fields: object) -> Entry:
    if isinstance(fields, dict) and isinstance(fields.get("path"), str):
        size, target = fields.get("size", 0), fields.get("target", "")
        try:
            entry = Entry(**fields)
        except TypeError:  # other fields, or too few
            corrupt(f"{fields!r:.200} is no entry")
        if (
            entry.kind in (DIRECTORY, FILE, SYMLINK)
            and entry.fields() == fields
            and type(size) is int
            and size >= 0
            and isinstance(entry.executable, bool)
            and isinstance(target, str)
        ):
            return entry
    return corrupt(f"{fields!r:.200} is no entry")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields
