"""What a node shows of itself and its mesh, as JSON documents with the field names of the interface.

Reads the machine, decides nothing. Sizes are bytes, durations seconds.
"""

from __future__ import annotations

from typing import Any

from mesh.core.copies import ONE
from mesh.core.ids import NodeId
from mesh.core.ledger import STATES
from mesh.core.machine import Machine
from mesh.core.members import Peer
from mesh.core.messages import Bid
from mesh.core.spare import PINNED, pin_of

Document = dict[str, Any]


def peers(machine: Machine, now: float) -> list[Document]:
    """Every member known here, this node included, and whoever was refused."""
    members = [peer for peer in machine.members.known() if not machine.ledger.forgotten(peer.node)]
    rows = [_peer(machine, peer, now) for peer in members]
    rows.append(_myself(machine))
    rows.sort(key=lambda row: row["id"])
    known = {row["address"] for row in rows}
    for address, reason in sorted(machine.door.refusals.items()):
        if address not in known:
            refused = _row("", "", "", "refused", reason, address, False, None, None, "")
            rows.append(refused)
    return rows


def _myself(machine: Machine) -> Document:
    me, leader = machine.me, machine.election
    term = leader.claim.term if leader.claim.leader else None
    bid = machine.worker.bid() if me.works else None
    reason = leader.journal_trouble or ("" if me.works else f"its role is {me.role}: it runs nothing")
    return _row(me.node, me.name, me.role, "alive", reason, me.address, leader.leading, bid, term, me.version)


def _peer(machine: Machine, peer: Peer, now: float) -> Document:
    members, beat = machine.members, peer.heartbeat
    if peer.gone:
        state, reason = "left", "its process ended"
    elif now < peer.barred_until:
        state, reason = "refused", machine.door.refusals.get(peer.address, peer.why_refused)
    elif members.alive(peer, now):
        state = "suspect" if members.suspect(peer, now) else "alive"
        reason = "" if state == "alive" else f"silent for {members.silent_for(peer, now):.1f} s"
    else:
        heard = members.silent_for(peer, now)
        state = "island"
        reason = f"silent for {heard:.0f} s" if heard < 1e9 else "not reached since this node started"
        reason = machine.door.refusals.get(peer.address, reason)
    session_bid = None
    account = machine.leader.accounts.get(peer.node)
    if account is not None and state in ("alive", "suspect"):
        session_bid = account.bid
    leads = machine.election.announced().leader == peer.node
    term = beat.claim.term if beat is not None and beat.claim.leader else None
    if state == "alive" and not reason and beat is not None and not beat.eligible and peer.role in ("auto", "leader"):
        reason = beat.why_not
    row = _row(peer.node, peer.name, peer.role, state, reason, peer.address, leads, session_bid, term, peer.version)
    return row | {"copy": _copy(machine, peer.node), "refused_messages": peer.refused}


def _copy(machine: Machine, node: NodeId) -> Document | None:
    """How far a successor's copy of this leader's journal is; None of others."""
    position, recorded = machine.copies.position(node), machine.out.recorded
    if position is None:
        return None
    share = round(position / recorded, 4) if recorded else 1.0
    return {"counts": node in machine.copies.standing(), "share": share, "records": position, "of": recorded}


def _row(
    node: NodeId, name: str, role: str, state: str, reason: str, address: str, leads: bool, bid: Bid | None,
    term: int | None, version: str,
) -> Document:  # fmt: skip
    offer = bid.offer if bid is not None else None
    devices = [
        {"id": d.id, "kind": d.kind, "name": d.name, "memory_bytes": d.memory, "free_memory_bytes": d.free_memory}
        for d in (offer.devices if offer is not None else ())
    ]
    willing = offer is not None and not offer.unwilling
    return {
        "id": node,
        "name": name,
        "role": role,
        "leader": leads,
        "state": state,
        "reason": reason or (offer.unwilling if offer is not None else ""),
        "address": address,
        "devices": devices,
        "slots": None if offer is None else offer.slots,
        "free_slots": None if bid is None else bid.free_slots,
        "bid": _bid(bid) if bid is not None and willing else None,
        "term": term,
        "version": version,
        "copy": None,
        "refused_messages": 0,
    }


def _bid(bid: Bid) -> Document:
    offer = bid.offer
    return {
        "free_slots": bid.free_slots,
        "cores": offer.millicpus / 1000,
        "free_cores": bid.free_millicpus / 1000,
        "memory_bytes": offer.memory,
        "free_memory_bytes": bid.free_memory,
        "min_priority": offer.min_priority,
        "max_priority": offer.max_priority,
        "cpu": offer.cpu,
        "profile": offer.profile,
        "python": offer.python,
        "labels": dict(offer.labels),
        "allowance_seconds": bid.allowance_ms / 1000,
    }


def blobs(machine: Machine, now: float) -> list[Document]:
    """All that living nodes have whole, as they told this leader."""
    holdings, found = machine.holdings, []
    for blob, size in sorted(holdings.sizes.items()):
        nodes = holdings.alive_holders(blob, now)
        if nodes:
            names = [machine.leader.name(node) for node in nodes]
            pinned = bool(machine.ledger.value(pin_of(blob), PINNED))
            found.append({"id": blob, "size": size, "nodes": names, "pinned": pinned})
    return found


def status(machine: Machine, now: float) -> Document:
    """This node's own standing, and the mesh's as it sees it."""
    election, ledger = machine.election, machine.ledger
    totals = dict.fromkeys(STATES, 0)
    for job in ledger.jobs.values():
        for state, count in job.counts.items():
            totals[state] += count
    claim = election.announced()
    return {
        "id": machine.me.node,
        "name": machine.me.name,
        "role": machine.me.role,
        "version": machine.me.version,
        "mesh": machine.me.mesh_name,
        "mesh_id": ledger.mesh_ids()[0] if ledger.meshes else None,
        "leader": claim.leader or None,
        "leading": machine.leading,
        "established": claim.established,
        "term": claim.term or None,
        "alive": 1 + sum(1 for _ in machine.members.living(now)),
        "members": 1 + len(machine.members.peers),
        "uptime_seconds": round(now - machine.started, 3),
        "jobs": len(ledger.jobs),
        "tasks": totals,
        "journal_position": machine.out.synced,
        "durable_on": [machine.me.node, *machine.copies.standing()],
        "durability": ledger.value("mesh", "durability") or ONE,
        "caught_up": machine.puller.caught_up(now),
        "trouble": election.journal_trouble or None,
        "refused_messages": {peer.node: peer.refused for peer in machine.members.known() if peer.refused},
        "refused_hellos": machine.door.invalid_hellos,
    }
