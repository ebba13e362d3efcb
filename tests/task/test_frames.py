from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.task.frames import FrameReader, encode

FRAMES = st.lists(st.tuples(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5), st.binary()))


@given(FRAMES, st.lists(st.integers(1, 40)))
def test_frames_survive_any_cutting(frames: list[tuple[Any, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode(header, body) for header, body in frames)
    reader, found = FrameReader(), []
    for size in cuts:
        found += reader.feed(data[:size])
        data = data[size:]
    found += reader.feed(data)
    assert found == frames
