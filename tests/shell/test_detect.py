"""The table of detectors: merging, the owner's choices, and what a faulty detector does (nothing to the others)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mesh.core.messages import Device
from mesh.shell import detect
from mesh.shell.detect import Detection, Detector, Fault, NotOffered, Options, profile

GIB = 1 << 30
CARDS = (
    Device("cuda:0", "cuda", "RTX 5090", 32 * GIB, 30 * GIB),
    Device("cuda:1", "cuda", "RTX 4070", 12 * GIB, 11 * GIB),
)


def says(**facts: Any) -> tuple[str, Detector]:
    return ("said", lambda: facts)


MACHINE = says(cpu="A CPU", machine="x86_64", millicpus=16_000, memory=64 * GIB, free_memory=60 * GIB, devices=CARDS)


def detection(*detectors: tuple[str, Detector], **options: Any) -> Detection:
    return Detection(Options(**options), (MACHINE, *detectors))


def test_everything_is_offered_by_default() -> None:
    measuring = detection()
    offer = measuring.measure()
    assert (offer.slots, offer.millicpus, offer.memory, offer.free_memory) == (16, 16_000, 64 * GIB, 60 * GIB)
    assert offer.devices == CARDS
    assert (offer.min_priority, offer.max_priority) == (1, 10)
    assert offer.cpu == "A CPU"
    assert offer.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert measuring.faults == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"slots": 1}, {"slots": 1, "millicpus": 16_000}),  # one task may have all cores
        ({"slots": 20}, {"slots": 20, "millicpus": 20_000}),  # so many tasks at a time, each asking for a core
        ({"memory": 8 * GIB}, {"memory": 8 * GIB, "free_memory": 8 * GIB}),
        ({"memory": 62 * GIB}, {"memory": 62 * GIB, "free_memory": 60 * GIB}),
        ({"min_priority": 5, "max_priority": 7}, {"min_priority": 5, "max_priority": 7}),
        ({"profile": "lab_special"}, {"profile": "lab_special"}),
        ({"devices": ("cuda:1",)}, {"devices": CARDS[1:], "profile": "gpu_standard"}),
        ({"devices": ("cuda:1", "cuda:0")}, {"devices": (CARDS[1], CARDS[0])}),
        ({"devices": ("cpu",)}, {"devices": (), "profile": "cpu_x86"}),
    ],
)
def test_the_owner_decides(options: dict[str, Any], expected: dict[str, Any]) -> None:
    offer = detection(**options).measure()
    assert {key: getattr(offer, key) for key in expected} == expected


def test_the_owners_labels_win() -> None:
    offer = detection(says(labels={"room": "west", "os": "linux"}), labels=(("room", "east"),)).measure()
    assert offer.labels == (("os", "linux"), ("room", "east"))


def test_an_unknown_device_names_what_there_is() -> None:
    broken = ("cuda", lambda: {"faults": ["card 7 does not answer: lost"]})
    with pytest.raises(NotOffered) as raised:
        detection(broken, devices=("cuda:0", "cuda:7")).measure()
    assert raised.value.exit_code == 2
    text = str(raised.value)
    assert "--device cuda:7" in text
    assert "cuda:0 (RTX 5090), cuda:1 (RTX 4070)" in text
    assert "card 7 does not answer" in text


def test_an_unknown_device_where_there_is_none() -> None:
    with pytest.raises(NotOffered, match="it has: none"):
        Detection(Options(devices=("mps",)), (says(memory=GIB),)).measure()


def test_a_chosen_card_that_goes_does_not_end_the_daemon() -> None:
    cards = [*CARDS]
    measuring = Detection(Options(devices=("cuda:0", "cuda:1")), (("cuda", lambda: {"devices": list(cards)}),))
    assert len(measuring.measure().devices) == 2
    cards.pop()
    assert measuring.measure().devices == (CARDS[0],)
    assert measuring.faults == (Fault("device", "cuda:1 is gone"),)


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(NotOffered, match=r"64\.0 GiB") as raised:
        detection(memory=65 * GIB).measure()
    assert raised.value.exit_code == 2


def test_memory_that_shrinks_later_does_not_end_the_daemon() -> None:
    total = [64 * GIB]
    measuring = Detection(
        Options(memory=40 * GIB), (("memory", lambda: {"memory": total[0], "free_memory": total[0]}),)
    )
    measuring.measure()
    total[0] = 32 * GIB
    assert measuring.measure().memory == 32 * GIB


def test_later_detectors_win_and_devices_add_up() -> None:
    npu = Device("npu:0", "npu", "An NPU", GIB, GIB)
    better = CARDS[0]._replace(free_memory=1)
    offer = detection(says(cpu="Better", devices=[npu]), says(devices=[better])).measure()
    assert offer.cpu == "Better"
    assert offer.devices == (CARDS[1], npu, better)


def fail() -> dict[str, Any]:
    raise ValueError("no luck")


def leave() -> dict[str, Any]:
    sys.exit(3)


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (fail, "ValueError: no luck"),
        (leave, "SystemExit: 3"),
        (lambda: None, "it returned NoneType"),
        (lambda: {"gpus": 3}, "there is no fact 'gpus'"),
        (lambda: {"memory": -1}, "memory cannot be -1"),
        (lambda: {"memory": "much"}, "memory cannot be 'much'"),
        (lambda: {"millicpus": 0}, "millicpus cannot be 0"),
        (lambda: {"cpu": "a\x1b[2J"}, "cpu cannot be"),
        (lambda: {"profile": ""}, "profile cannot be ''"),
        (lambda: {"labels": {"a": 1}}, "labels cannot be"),
        (lambda: {"labels": ["a"]}, "labels cannot be"),
        (lambda: {"devices": ["cuda:0"]}, "devices cannot be"),
        (lambda: {"devices": [CARDS[0]._replace(id="GPU 0")]}, "devices cannot be"),
        (lambda: {"devices": [CARDS[0]._replace(free_memory=1.5)]}, "devices cannot be"),
        (lambda: {"faults": "one"}, "faults cannot be"),
    ],
)
def test_a_faulty_detector_is_named_and_the_others_go_on(detector: Detector, reason: str) -> None:
    measuring = detection(("theirs", detector), says(labels={"after": "yes"}))
    offer = measuring.measure()
    assert [fault.detector for fault in measuring.faults] == ["theirs"]
    assert reason in measuring.faults[0].reason
    assert (offer.memory, offer.devices, offer.cpu) == (64 * GIB, CARDS, "A CPU")
    assert offer.labels == (("after", "yes"),)


def test_one_wrong_fact_leaves_the_others_of_its_detector() -> None:
    measuring = detection(says(memory=-1, cpu="Right"))
    assert measuring.measure().cpu == "Right"
    assert len(measuring.faults) == 1


def test_a_detector_that_hangs_is_left_behind_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "PATIENCE", 0.05)
    release, asked = threading.Event(), []

    def hang() -> dict[str, Any]:
        asked.append(1)
        release.wait(60)
        return {}

    measuring = detection(("theirs", hang))
    try:
        assert measuring.measure().memory == 64 * GIB
        assert "did not answer" in measuring.faults[0].reason
        measuring.measure()
        assert measuring.faults == (Fault("theirs", "it still hangs"),)
        assert len(asked) == 1
    finally:
        release.set()


PLUGIN = """
def detector():
    return {"labels": {"scanner": "flatbed"}}
NUMBER = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "somebodys_detector.py").write_text(PLUGIN)
    (tmp_path / "somebodys_broken.py").write_text("import there_is_no_such_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        EntryPoint("scanner", "somebodys_detector:detector", detect.GROUP),
        EntryPoint("number", "somebodys_detector:NUMBER", detect.GROUP),
        EntryPoint("broken", "somebodys_broken:detector", detect.GROUP),
    ]
    monkeypatch.setattr(detect, "entry_points", lambda *, group: found if group == detect.GROUP else [])
    yield
    sys.modules.pop("somebodys_detector", None)


@pytest.mark.usefixtures("plugin")
def test_detectors_are_added_by_entry_point_and_broken_ones_reported() -> None:
    measuring = Detection.with_plugins(Options())
    assert ("scanner", "flatbed") in measuring.measure().labels
    reasons = {fault.detector: fault.reason for fault in measuring.faults}
    assert set(reasons) == {"broken", "number"}
    assert "there_is_no_such_module" in reasons["broken"]
    assert "not callable" in reasons["number"]


@pytest.mark.parametrize(
    ("machine", "sizes_mib", "expected"),
    [
        ("x86_64", (24_564,), "gpu_high"),  # 24 GB
        ("x86_64", (16_376,), "gpu_standard"),  # 16 GB: not over 16
        ("x86_64", (8_188,), "gpu_standard"),  # 8 GB
        ("x86_64", (8_188, 32_607), "gpu_high"),
        ("x86_64", (6_144,), "cpu_x86"),
        ("x86_64", (), "cpu_x86"),
        ("AMD64", (), "cpu_x86"),
        ("arm64", (), "cpu_arm_high"),
        ("aarch64", (), "cpu_arm_high"),
        ("aarch64", (97_000,), "gpu_high"),
    ],
)
def test_profiles(machine: str, sizes_mib: tuple[int, ...], expected: str) -> None:
    cards = [Device(f"cuda:{n}", "cuda", "", size << 20, 0) for n, size in enumerate(sizes_mib)]
    assert profile(machine, cards) == expected


def test_apples_gpu_makes_no_gpu_profile() -> None:
    assert profile("arm64", [Device("mps", "mps", "Apple M4", 64 * GIB, 0)]) == "cpu_arm_high"


def test_this_machine_is_measured() -> None:
    measuring = Detection.with_plugins(Options())
    offer = measuring.measure()
    assert offer.slots >= 1
    assert 0 < offer.free_memory <= offer.memory
    assert dict(offer.labels)["os"] == sys.platform


def test_torch_is_never_imported() -> None:
    program = (
        "import sys\n"
        "from mesh.shell.detect import Options, measure\n"
        "measure(Options())\n"
        "sys.exit(len({'torch', 'numpy'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
