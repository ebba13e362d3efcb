"""Accelerators: CUDA cards by NVML and Apple's GPU. torch is never imported: it would cost meshd 200 MB and a context.

A card's id is its NVML index (``cuda:1``), which is the order of ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; so whoever hands a
card to a task sets both that and ``CUDA_VISIBLE_DEVICES``. Ids stay the same under meshd's own CUDA_VISIBLE_DEVICES,
which only hides cards.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import psutil
import pynvml

from mesh.core.messages import Device
from mesh.shell.detectors.processor import cpu


def cuda() -> dict[str, Any]:
    """Total and measured free memory of each card: a card that others use is not as free as it is large."""
    try:
        # Never shut down again: initialising takes up to seconds where no persistence daemon holds the driver, and
        # asked a second time it only counts.
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}  # no driver, or none that answers: a machine without cards, which is nothing to report
    visible, faults = _visible(list(range(pynvml.nvmlDeviceGetCount())))
    devices = []
    for index in visible:
        try:
            devices.append(_card(index))
        except pynvml.NVMLError as error:
            faults.append(f"card {index} does not answer: {error}")
    return {"devices": devices, "faults": faults}


def mps() -> dict[str, Any]:
    """Apple's GPU, which shares the memory of the machine."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return {}
    memory = psutil.virtual_memory()
    return {"devices": [Device("mps", "mps", cpu()["cpu"], int(memory.total), int(memory.available))]}


def _card(index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError_NotSupported:
        # Cards that share the machine's memory (Jetson, DGX Spark) have none of their own to count.
        shared = psutil.virtual_memory()
        total, free = int(shared.total), int(shared.available)
    # Releases of the binding before 11.5 answer in bytes.
    return Device(f"cuda:{index}", "cuda", name.decode() if isinstance(name, bytes) else name, total, free)


def _visible(cards: list[int]) -> tuple[list[int], list[str]]:
    """What CUDA_VISIBLE_DEVICES leaves, read as CUDA does: indices or starts of UUIDs, up to the first that is none."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return cards, []
    chosen: list[int] = []
    for item in (part.strip() for part in setting.split(",")):
        if item.startswith("MIG-"):
            return chosen, [f"CUDA_VISIBLE_DEVICES names {item}: parts of a card (MIG) are not offered yet"]
        if item.isdigit():
            match = [int(item)] if int(item) in cards else []
        elif item.startswith("GPU-"):
            match = [card for card in cards if _uuid(card).startswith(item)]
        else:
            match = []
        if len(match) != 1 or match[0] in chosen:
            unusual = item not in ("", "-1", "NoDevFiles")
            return chosen, [f"CUDA_VISIBLE_DEVICES names {item!r}, which is not one card here"] if unusual else []
        chosen += match
    return chosen, []


def _uuid(index: int) -> str:
    uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)
