"""Reports and orders to frames of ``Work.Serve`` and back; and what a task does, as the bytes in its payload."""

from __future__ import annotations

from mesh.core.messages import Bid, Device, Grant, Offer, Orders, Report
from mesh.core.work import Work
from mesh.v1 import work_pb2 as pb
from mesh.wire.errors import UNREADABLE, UNWRITABLE, unreadable, unwritable
from mesh.wire.ledger import (
    get_attempt,
    get_checkpoint,
    get_claim,
    get_task,
    put_attempt,
    put_checkpoint,
    put_claim,
    put_task,
)


def encode_work(work: Work) -> bytes:
    """What :attr:`mesh.core.lattice.Task.payload` holds."""
    kind, argv, target, function, arguments, cwd, env, params, metric, files, requirements = work
    try:
        item = pb.WorkItem(
            kind=kind,
            argv=argv,
            target=target,
            function=function,
            arguments=arguments,
            cwd=cwd,
            params=params,
            metric=metric,
            files=files,
            requirements=requirements,
        )
        for name, value in env:
            item.env.add(name=name, value=value)
        return item.SerializeToString()
    except UNWRITABLE as error:
        raise unwritable("task's work", error) from error


def decode_work(payload: bytes) -> Work:
    try:
        m = pb.WorkItem.FromString(payload)
    except UNREADABLE as error:
        raise unreadable("task's work", error) from error
    env = tuple((variable.name, variable.value) for variable in m.env)
    return Work(
        m.kind, tuple(m.argv), m.target, m.function, m.arguments, m.cwd, env, m.params, m.metric, m.files,
        m.requirements,
    )  # fmt: skip


def opening(node: str, life: str) -> pb.ReportFrame:
    """The first frame of a stream: who speaks. The node checks it against its link to that member's life."""
    return pb.ReportFrame(node=node, life=life)


def encode_report(report: Report) -> pb.ReportFrame:
    claim, life, applied, attempts, progress, bid, declares, cannot, session, slices = report
    frame = pb.ReportFrame()
    out = frame.report
    try:
        put_claim(out.claim, claim)
        out.life, out.applied, out.declares, out.session, out.slices = life, applied, declares, session, slices
        add = out.attempts.add
        for attempt in attempts:
            put_attempt(add(), attempt)
        for attempt_id, metrics in progress:
            out.progress.add(attempt=attempt_id, metrics=metrics)
        if bid is not None:
            _put_bid(out.bid, bid)
        for what, why in cannot:
            out.cannot.add(what=what, why=why)
    except UNWRITABLE as error:
        raise unwritable("report", error) from error
    return frame


def decode_report(frame: pb.ReportFrame) -> Report | None:
    """``None``: the frame holds no report, as an :func:`opening`."""
    if not frame.HasField("report"):
        return None
    m = frame.report
    try:
        return Report(
            get_claim(m.claim),
            m.life,
            m.applied,
            tuple([get_attempt(attempt) for attempt in m.attempts]),
            tuple([(progress.attempt, progress.metrics) for progress in m.progress]),
            _get_bid(m.bid) if m.HasField("bid") else None,
            m.declares,
            tuple([(cannot.what, cannot.why) for cannot in m.cannot]),
            m.session,
            m.slices,
        )
    except UNREADABLE as error:
        raise unreadable("report", error) from error


def encode_orders(orders: Orders) -> pb.OrdersFrame:
    claim, seq, grants, recalls, acks, unknown, session = orders
    frame = pb.OrdersFrame()
    out = frame.orders
    try:
        put_claim(out.claim, claim)
        out.seq, out.session = seq, session
        add = out.grants.add
        for attempt, run, task, priority, devices, alternative, resume in grants:
            grant = add(attempt=attempt, run=run, priority=priority, devices=devices, alternative=alternative)
            put_task(grant.task, task)
            for checkpoint in resume:
                put_checkpoint(grant.resume.add(), checkpoint)
        for attempt_id, why in recalls:
            out.recalls.add(attempt=attempt_id, why=why)
        out.acks.extend(acks)
        out.unknown.extend(unknown)
    except UNWRITABLE as error:
        raise unwritable("batch of orders", error) from error
    return frame


def decode_orders(frame: pb.OrdersFrame) -> Orders | None:
    """``None``: the frame holds no orders."""
    if not frame.HasField("orders"):
        return None
    m = frame.orders
    try:
        return Orders(
            get_claim(m.claim),
            m.seq,
            tuple(
                [
                    Grant(
                        g.attempt,
                        g.run,
                        get_task(g.task),
                        g.priority,
                        tuple(g.devices),
                        g.alternative,
                        tuple([get_checkpoint(checkpoint) for checkpoint in g.resume]) if g.resume else (),
                    )
                    for g in m.grants
                ]
            ),
            tuple([(recall.attempt, recall.why) for recall in m.recalls]),
            tuple(m.acks),
            tuple(m.unknown),
            m.session,
        )
    except UNREADABLE as error:
        raise unreadable("batch of orders", error) from error


def _put_bid(out: pb.Bid, bid: Bid) -> None:
    offer, out.free_slots, out.free_millicpus, out.free_memory, devices, out.allowance_ms, speeds = bid
    _put_offer(out.offer, offer)
    for device, free in devices:
        out.devices.add(device=device, free=free)
    for kind, micros in speeds:
        out.speeds.add(kind=kind, micros=micros)


def _get_bid(m: pb.Bid) -> Bid:
    return Bid(
        _get_offer(m.offer),
        m.free_slots,
        m.free_millicpus,
        m.free_memory,
        tuple((share.device, share.free) for share in m.devices),
        m.allowance_ms,
        tuple((speed.kind, speed.micros) for speed in m.speeds),
    )


def _put_offer(out: pb.Offer, offer: Offer) -> None:
    (
        out.slots,
        out.millicpus,
        out.memory,
        out.free_memory,
        devices,
        labels,
        out.profile,
        out.cpu,
        out.python,
        out.min_priority,
        out.max_priority,
        out.unwilling,
        runners,
    ) = offer
    for device in devices:
        card = out.devices.add()
        card.id, card.kind, card.name, card.memory, card.free_memory = device
    for key, value in labels:
        out.labels.add(key=key, value=value)
    out.runners.extend(runners)


def _get_offer(m: pb.Offer) -> Offer:
    return Offer(
        m.slots,
        m.millicpus,
        m.memory,
        m.free_memory,
        tuple(Device(card.id, card.kind, card.name, card.memory, card.free_memory) for card in m.devices),
        tuple((label.key, label.value) for label in m.labels),
        m.profile,
        m.cpu,
        m.python,
        m.min_priority,
        m.max_priority,
        m.unwilling,
        tuple(m.runners),
    )
