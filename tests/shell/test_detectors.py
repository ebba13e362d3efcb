"""The built-in detectors, on machines made up by replacing what pynvml, psutil and the kernel say."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from mesh.core.messages import Device
from mesh.shell.detectors import processor
from mesh.shell.detectors.accelerators import cuda, mps

GIB = 1 << 30


class Cards:
    """Replaces the functions of pynvml. A card is (name, uuid, total, free), or an error to raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: Any) -> None:
        self.cards = cards
        for name in ("Init", "DeviceGetCount", "DeviceGetHandleByIndex", "DeviceGetName", "DeviceGetUUID"):
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def Init(self) -> None:
        pass

    def DeviceGetCount(self) -> int:
        return len(self.cards)

    def DeviceGetHandleByIndex(self, index: int) -> Any:
        if isinstance(self.cards[index], pynvml.NVMLError):
            raise self.cards[index]
        return self.cards[index]

    def DeviceGetName(self, card: Any) -> Any:
        return card[0]

    def DeviceGetUUID(self, card: Any) -> Any:
        return card[1]

    def memory(self, card: Any) -> Any:
        if card[2] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=card[2], free=card[3], used=card[2] - card[3])


FIRST = ("NVIDIA RTX 5090", "GPU-aaaa1111", 32 * GIB, 20 * GIB)
SECOND = ("NVIDIA RTX 4070", "GPU-aaaa2222", 12 * GIB, 11 * GIB)
THIRD = ("NVIDIA T4", "GPU-bbbb3333", 16 * GIB, 15 * GIB)


def ids(facts: dict[str, Any]) -> list[str]:
    return [device.id for device in facts["devices"]]


def test_cards_with_total_and_measured_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    Cards(monkeypatch, FIRST, (b"NVIDIA RTX 4070", b"GPU-x", 12 * GIB, GIB))
    assert cuda() == {
        "devices": [
            Device("cuda:0", "cuda", "NVIDIA RTX 5090", 32 * GIB, 20 * GIB),
            Device("cuda:1", "cuda", "NVIDIA RTX 4070", 12 * GIB, GIB),
        ],
        "faults": [],
    }


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION]
)
def test_no_driver_means_no_cards_and_no_fault(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert cuda() == {}


def test_a_lost_card_is_a_fault_and_the_others_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    Cards(monkeypatch, pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST), SECOND)
    facts = cuda()
    assert ids(facts) == ["cuda:1"]
    assert len(facts["faults"]) == 1
    assert "card 0" in facts["faults"][0]


def test_a_card_that_shares_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    Cards(monkeypatch, ("NVIDIA GB10", "GPU-x", None, None))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=128 * GIB, available=100 * GIB))
    assert cuda()["devices"] == [Device("cuda:0", "cuda", "NVIDIA GB10", 128 * GIB, 100 * GIB)]


@pytest.mark.parametrize(
    ("setting", "visible", "faults"),
    [
        ("0,1,2", ["cuda:0", "cuda:1", "cuda:2"], 0),
        ("2,0", ["cuda:2", "cuda:0"], 0),
        (" 1 ", ["cuda:1"], 0),
        ("", [], 0),
        ("-1", [], 0),
        ("NoDevFiles", [], 0),
        ("1,-1,2", ["cuda:1"], 0),  # CUDA stops at the first that is none
        ("1,9,2", ["cuda:1"], 1),
        ("0,0,1", ["cuda:0"], 1),
        ("GPU-bbbb", ["cuda:2"], 0),
        ("GPU-aaaa2222,GPU-aaaa1111", ["cuda:1", "cuda:0"], 0),
        ("GPU-aaaa", [], 1),  # the start of two
        ("MIG-1234", [], 1),
        ("all", [], 1),
    ],
)
def test_cuda_visible_devices_hides_cards_and_keeps_their_ids(
    monkeypatch: pytest.MonkeyPatch, setting: str, visible: list[str], faults: int
) -> None:
    Cards(monkeypatch, FIRST, SECOND, THIRD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    facts = cuda()
    assert ids(facts) == visible
    assert len(facts["faults"]) == faults


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=32 * GIB, available=20 * GIB))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="Apple M4 Max\n"))
    monkeypatch.setattr(processor, "_model", processor._model.__wrapped__)


@pytest.mark.usefixtures("apple")
def test_apples_gpu_has_the_machines_memory() -> None:
    assert mps() == {"devices": [Device("mps", "mps", "Apple M4 Max", 32 * GIB, 20 * GIB)]}


@pytest.mark.usefixtures("apple")
def test_an_intel_mac_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert mps() == {}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine of 64 cores and 100 GiB, whose files lie in a temporary directory."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=100 * GIB, available=90 * GIB))
    monkeypatch.setattr(processor, "CGROUPS", tmp_path)
    monkeypatch.setattr(processor, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "_model", processor._model.__wrapped__)
    return tmp_path


def group(root: Path, path: str, **files: str) -> None:
    directory = root / path
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(text + "\n")


def test_cores_are_those_it_may_run_on(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor.cores() == {"millicpus": 64_000}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert processor.cores() == {"millicpus": 2000}


@pytest.mark.parametrize(
    ("quotas", "millicpus"),
    [
        ({"a/b": "250000 100000"}, 2500),
        ({"a": "150000 100000", "a/b": "max 100000"}, 1500),  # what holds the parent holds the child
        ({"": "300000 100000"}, 3000),  # a container sees its own group as the root
        ({"a/b": "50000 100000"}, 500),
        ({"a/b": "max 100000"}, 64_000),
        ({"a/b": "nonsense"}, 64_000),
    ],
)
def test_a_quota_of_a_cgroup_counts(kernel: Path, quotas: dict[str, str], millicpus: int) -> None:
    (kernel / "self").write_text("1:cpu:/x\n0::/a/b\n")
    for path, quota in quotas.items():
        group(kernel, path, cpu_max=quota)
    assert processor.cores() == {"millicpus": millicpus}


@pytest.mark.parametrize(
    ("groups", "total", "free"),
    [
        ({}, 100, 90),
        ({"a/b": {"memory_max": str(8 * GIB), "memory_current": str(3 * GIB)}}, 8, 5),
        (
            {
                "a/b": {
                    "memory_max": str(8 * GIB),
                    "memory_current": str(7 * GIB),
                    "memory_stat": f"anon 1\ninactive_file {4 * GIB}\nfile 2",
                }
            },
            8,
            5,
        ),
        ({"a": {"memory_max": str(4 * GIB)}, "a/b": {"memory_max": "max"}}, 4, 4),
        ({"a/b": {"memory_max": str(4 * GIB), "memory_current": str(5 * GIB)}}, 4, 0),
        ({"a/b": {"memory_max": str(500 * GIB), "memory_current": "0"}}, 100, 90),
    ],
)
def test_a_memory_limit_of_a_cgroup_counts(
    kernel: Path, groups: dict[str, dict[str, str]], total: int, free: int
) -> None:
    (kernel / "self").write_text("0::/a/b\n")
    for path, files in groups.items():
        group(kernel, path, **files)
    assert processor.memory() == {"memory": total * GIB, "free_memory": free * GIB}


def test_a_cgroup_path_cannot_lead_out(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CGROUPS", kernel / "mounted")
    group(kernel, "mounted", cpu_max="max 100000")
    group(kernel, "outside", cpu_max="1000 100000")
    (kernel / "self").write_text("0::/../outside\n")
    assert processor.cores() == {"millicpus": 64_000}


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel\t\t: 33\nmodel name\t: AMD  Ryzen 9\nmodel name\t: AMD Ryzen 9\n", "AMD Ryzen 9"),
        ("processor: 0\nHardware : BCM2835\n", "BCM2835"),
        ("model name: a\x1b[2Jb\n", "a[2Jb"),
        ("model name: " + "x" * 500, "x" * 128),
    ],
)
def test_the_processors_name(kernel: Path, text: str, model: str) -> None:
    (kernel / "cpuinfo").write_text(text)
    assert processor.cpu()["cpu"] == model


def test_a_processor_without_a_name_has_its_architecture(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.cpu() == {"cpu": "aarch64", "machine": "aarch64"}
