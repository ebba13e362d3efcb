from __future__ import annotations

import pytest

from mesh.lan.announcement import Announcement, BadAnnouncement, address, decode, encode, label

NODE = "50-01M84RBZX257RX0MDWRRSNDHDW"
GOOD = {b"txtvers": b"1", b"mesh": b"lab", b"id": NODE.encode(), b"proto": b"1"}


def on_the_wire(announcement: Announcement) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in encode(announcement).items()}


def test_what_is_said_is_understood() -> None:
    announcement = Announcement("lab.east-2", NODE, (2, 1))
    assert decode(on_the_wire(announcement), (1,)) == announcement


def test_txt_is_small_and_static() -> None:
    said = encode(Announcement("m" * 63, NODE, (2, 1)))
    assert set(said) == {"txtvers", "mesh", "id", "proto"}
    assert sum(len(f"{key}={value}") + 1 for key, value in said.items()) < 200  # a size that RFC 6763 calls small


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"mesh": b"\xff\xfe"}, "not text"),
        ({b"m\xc3\xa4sh": b"x"}, "not text"),
        ({b"txtvers": b"2"}, "version '2'"),
        ({b"txtvers": None}, "version ''"),
        ({b"mesh": b""}, "not a mesh name"),
        ({b"mesh": b"m" * 200}, "not a mesh name"),
        ({b"mesh": b"a\x1b[31m"}, "not a mesh name"),
        ({b"id": b""}, "not a node id"),
        ({b"id": NODE.lower().encode()}, "not a node id"),
        ({b"id": b"50-" + b"0" * 200}, "not a node id"),
        ({b"id": (NODE + "\n").encode()}, "not a node id"),
        ({b"proto": b"one"}, "no list of protocol"),
        ({b"proto": b"1," * 200 + b"1"}, "no list of protocol"),
        ({b"proto": "\N{ARABIC-INDIC DIGIT ONE}".encode()}, "no list of protocol"),
        ({b"proto": b"7,6"}, "speaks protocol 7,6, this node 1"),
        ({f"key{n}".encode(): b"" for n in range(40)}, "44 keys"),
    ],
)
def test_what_is_malformed_is_refused_with_a_reason(change: dict[bytes, bytes | None], reason: str) -> None:
    with pytest.raises(BadAnnouncement, match=reason):
        decode({**GOOD, **change}, (1,))


@pytest.mark.parametrize("key", [b"txtvers", b"mesh", b"id", b"proto"])
def test_what_is_missing_is_refused(key: bytes) -> None:
    with pytest.raises(BadAnnouncement):
        decode({name: value for name, value in GOOD.items() if name != key}, (1,))


def test_a_reason_is_short_and_cannot_write_over_a_terminal() -> None:
    with pytest.raises(BadAnnouncement) as raised:
        decode({**GOOD, b"id": b"\x1b[2J" + b"x" * 250}, (1,))
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 100


def test_unknown_keys_and_other_cases_are_accepted() -> None:
    assert decode({**GOOD, b"fingerprint": b"ab"}, (1,)).mesh == "lab"
    assert decode({key.upper(): value for key, value in GOOD.items()}, (1,)).node == NODE


@pytest.mark.parametrize("mesh", ["lab", "a.b.c", "m" * 63])
def test_an_instance_name_is_one_label(mesh: str) -> None:
    name = label(Announcement(mesh, NODE, (1,)), "0123abcd")
    assert len(name.encode()) <= 63
    assert "." not in name  # it would be cut there
    assert NODE in name


def test_two_lives_of_one_node_have_two_names() -> None:
    announcement = Announcement("lab", NODE, (1,))
    assert label(announcement, "00000001") != label(announcement, "00000002")


@pytest.mark.parametrize(
    ("addresses", "network", "chosen"),
    [
        (["127.0.0.1"], "127.0.0.0/8", "127.0.0.1:7433"),
        (["10.0.0.5"], "10.0.0.0/24", "10.0.0.5:7433"),
        (["172.17.0.1", "10.0.0.5"], "10.0.0.0/24", "10.0.0.5:7433"),  # the one we reach directly
        (["10.9.0.9", "10.8.0.8"], "10.0.0.0/24", "10.8.0.8:7433"),  # routed; the same one everywhere
        (["127.0.0.1", "10.0.0.5"], "10.0.0.0/24", "10.0.0.5:7433"),
    ],
)
def test_the_address_to_dial(addresses: list[str], network: str, chosen: str) -> None:
    assert address(addresses, 7433, network) == chosen


@pytest.mark.parametrize(
    ("addresses", "port", "network"),
    [
        (["127.0.0.1"], 7433, "10.0.0.0/24"),  # would lead back to ourselves
        (["10.0.0.5"], 7433, "127.0.0.0/8"),  # loopback daemons stay on loopback
        (["0.0.0.0"], 7433, "10.0.0.0/24"),
        (["224.0.0.251"], 7433, "10.0.0.0/24"),
        (["255.255.255.255"], 7433, "10.0.0.0/24"),
        ([], 7433, "10.0.0.0/24"),
        (["10.0.0.5"], 0, "10.0.0.0/24"),
        (["10.0.0.5"], None, "10.0.0.0/24"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(addresses: list[str], port: int | None, network: str) -> None:
    with pytest.raises(BadAnnouncement):
        address(addresses, port, network)
