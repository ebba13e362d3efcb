from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from mesh.lan.interfaces import Interface, dialable, interfaces

LO = Interface("lo", "127.0.0.1", "127.0.0.1", "127.0.0.0/8")
ETH = Interface("eth0", "192.168.1.10", "192.168.1.10", "192.168.1.0/24")
WIFI = Interface("wlan0", "10.0.0.7", "10.0.0.7", "10.0.0.0/16")


def v4(address: str, netmask: str) -> SimpleNamespace:
    return SimpleNamespace(family=socket.AF_INET, address=address, netmask=netmask)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {
        "lo": [v4("127.0.0.1", "255.0.0.0"), SimpleNamespace(family=socket.AF_INET6, address="::1", netmask=None)],
        "eth0": [v4("192.168.1.10", "255.255.255.0")],
        "wlan0": [v4("10.0.0.7", "255.255.0.0")],
        "eth1": [v4("172.16.0.1", "255.255.0.0")],
        "tun0": [v4("10.8.0.2", "255.255.255.255")],
    }
    states = {
        "lo": SimpleNamespace(isup=True, flags="up,loopback,running"),
        "eth0": SimpleNamespace(isup=True, flags="up,broadcast,running,multicast"),
        "wlan0": SimpleNamespace(isup=True, flags="up,broadcast,running,multicast"),
        "eth1": SimpleNamespace(isup=False, flags="broadcast,multicast"),
        "tun0": SimpleNamespace(isup=True, flags="up,pointopoint,running"),
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)


def test_loopback_stays_on_loopback() -> None:
    assert interfaces("127.0.0.1") == (LO,)
    assert interfaces("127.0.1.1") == (LO._replace(record="127.0.1.1"),)


def test_an_address_is_announced_where_it_is_carried() -> None:
    assert interfaces("192.168.1.10") == (ETH,)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_is_announced_on_each_network_with_its_own_address(host: str) -> None:
    # Neither loopback, nor what is down, nor what cannot multicast.
    assert interfaces(host) == (ETH, WIFI)


@pytest.mark.parametrize("host", ["192.168.1.99", "172.16.0.1", "10.8.0.2", "::1", "fe80::1"])
def test_what_cannot_be_announced_is_not(host: str) -> None:
    assert interfaces(host) == ()


def test_a_wildcard_is_dialled_at_a_real_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dialable("192.168.1.10") == "192.168.1.10"
    assert dialable("0.0.0.0") == "192.168.1.10"
    monkeypatch.setattr(psutil, "net_if_stats", dict)
    assert dialable("0.0.0.0") == "127.0.0.1"
