"""The loop over a machine that is a script: order, time, calls, durability and what happens when it breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mesh.core import effects as fx
from mesh.core import events as ev
from mesh.core.errors import NoLeader
from mesh.core.ids import NO_CLAIM, NodeId
from mesh.core.lattice import Job, Record, Register
from mesh.core.messages import NO_CURSOR, Cursor, Message, Pull, Pulled
from mesh.node.driver import EXIT_BROKEN, FROZEN, Driver, Ports, SystemClock
from mesh.shell.journal_rows import Slice
from mesh.wire.ledger import encode_records


class HandClock:
    """Moves only when it is told to, apart from the event loop's own."""

    def __init__(self) -> None:
        self.time, self.asleep = 1000.0, 0.0

    def now(self) -> float:
        return self.time

    def slept(self) -> float:
        return self.asleep


class Scripted:
    """Answers an event with what ``rules`` has for its type; remembers all of them."""

    def __init__(self) -> None:
        self.rules: dict[type, Callable[[Any], list[fx.Effect]]] = {}
        self.seen: list[tuple[ev.Event, float]] = []
        self.due: float | None = None

    def step(self, event: ev.Event, now: float) -> list[fx.Effect]:
        self.seen.append((event, now))
        rule = self.rules.get(type(event))
        return rule(event) if rule else []

    def deadline(self) -> float | None:
        return self.due

    def events(self) -> list[ev.Event]:
        return [event for event, _ in self.seen]


class World:
    """All ports in one: writes down what it was told, in order."""

    id = "journal-1"

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.rows: list[Record] = []

    def append(self, position: int, records: Sequence[Record], source: Cursor) -> None:
        self.told.append(("append", position) if source == NO_CURSOR else ("append", position, source))
        self.rows += records

    def verify(self, cursor: Cursor) -> bool:
        return True

    def owns(self, journal: str) -> bool:
        return journal == self.id

    def tail(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice | None:
        after = next((cursor.position for cursor in cursors), 0)
        rows = self.rows[after : after + limit_records]
        last = after + len(rows)
        return Slice(Cursor(self.id, last, "x"), last == len(self.rows), encode_records(rows))

    def slice(self, cursors: Sequence[Cursor], limit_records: int, limit_bytes: int) -> Slice:
        raise AssertionError("all of it is kept in memory")

    def dial(self, address: str) -> None:
        self.told.append(("dial", address))

    def send(self, to: NodeId, message: Message) -> None:
        self.told.append(("send", to, message))

    def hangup(self, link: int, reason: str, code: str) -> None:
        self.told.append(("hangup", link, reason, code))

    def begin(self, effect: fx.BeginAttempts) -> None:
        self.told.append(("begin", effect.slot))

    def stop(self, effect: fx.StopAttempts) -> None:
        self.told.append(("stop", effect.attempts))

    def tasks_changed(self, tasks: tuple[str, ...]) -> None:
        self.told.append(("tasks", tasks))

    def jobs_changed(self, jobs: tuple[str, ...]) -> None:
        self.told.append(("jobs", jobs))

    def leader_changed(self, effect: fx.LeaderChanged) -> None:
        self.told.append(("leader", effect.address))

    def found(self, effect: fx.BlobFound) -> None:
        self.told.append(("found", effect.blob))

    def copy(self, effect: fx.CopyBlob) -> None:
        self.told.append(("copy", effect.blob))

    def spared(self, effect: fx.BlobsSpared) -> None:
        self.told.append(("spared", effect.blobs))


class Rig:
    def __init__(self, slice_records: int = 2000) -> None:
        self.clock, self.machine, self.world = HandClock(), Scripted(), World()
        self.driver = Driver(self.clock, slice_records=slice_records)

    def start(self, position: int = 0) -> None:
        world = self.world
        self.driver.start(self.machine, Ports(world, world, world, world, world), position)

    async def turn(self) -> None:
        """Until all that is posted now was stepped."""
        done = len(self.driver._queue) + len(self.machine.seen)
        while len(self.machine.seen) < done and not self.driver.finished.done():  # noqa: ASYNC110 - ends by itself
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110 - the driver offers no event to wait for, on purpose
                await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


ROW = Register("node/1", "address", 1, "50-A", "x")


async def test_effects_are_carried_out_in_the_order_given(rig: Rig) -> None:
    rig.machine.rules[ev.DialFailed] = lambda event: [
        fx.Persist(3, (ROW, ROW, ROW)),
        fx.Send("50-B", Pull(1, ())),
        fx.Dial("a:1"),
        fx.Hangup(4, "why", "foreign"),
        fx.BeginAttempts(2, ()),
        fx.StopAttempts(("a1",), "cancelled", "asked"),
        fx.TasksChanged(("t1",)),
        fx.JobsChanged(("j1",)),
        fx.LeaderChanged(NO_CLAIM, "a:2"),
        fx.BlobFound("b1", (), (), True, True, ""),
        fx.CopyBlob("b2", 5, ()),
    ]
    rig.driver.post(ev.DialFailed("a:1", True))
    rig.start()
    await rig.turn()
    assert rig.world.told == [
        ("append", 3),
        ("send", "50-B", Pull(1, ())),
        ("dial", "a:1"),
        ("hangup", 4, "why", "foreign"),
        ("begin", 2),
        ("stop", ("a1",)),
        ("tasks", ("t1",)),
        ("jobs", ("j1",)),
        ("leader", "a:2"),
        ("found", "b1"),
        ("copy", "b2"),
    ]


async def test_events_are_stepped_in_order_also_those_posted_by_effects(rig: Rig) -> None:
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Dial("b:1")] if event.address == "a:1" else []
    rig.world.dial = lambda address: rig.driver.post(ev.DialFailed(address, False))  # type: ignore[method-assign]
    for event in (ev.DialFailed("a:1", True), ev.LinkDown(1)):
        rig.driver.post(event)
    rig.start()
    await rig.until(lambda: len(rig.machine.seen) == 4)
    assert rig.machine.events() == [
        ev.DialFailed("a:1", True),
        ev.LinkDown(1),
        ev.Ticked(),
        ev.DialFailed("b:1", False),
    ]


async def test_timer_ticks_at_the_deadline(rig: Rig) -> None:
    rig.machine.due = rig.clock.time + 0.02
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()

    def no_more(event: ev.Ticked) -> list[fx.Effect]:
        rig.machine.due = None
        return []

    rig.machine.rules[ev.Ticked] = no_more
    rig.clock.time += 0.03
    await rig.until(lambda: bool(rig.machine.seen))
    assert rig.machine.seen == [(ev.Ticked(), rig.clock.time)]
    assert rig.driver.vitals()["loop_late"] == pytest.approx(0.01, abs=1e-6)


async def test_no_tick_before_the_deadline(rig: Rig) -> None:
    rig.start()
    await rig.turn()
    rig.machine.due = rig.clock.time + 5
    rig.driver.post(ev.LinkDown(1))
    await rig.turn()
    rig.driver.post(ev.LinkDown(2))
    await rig.turn()
    assert rig.machine.events() == [ev.Ticked(), ev.LinkDown(1), ev.LinkDown(2)]


async def test_the_timer_follows_the_deadline_and_is_left_alone_otherwise(rig: Rig) -> None:
    rig.machine.due = rig.clock.time + 5
    rig.start()
    await rig.turn()
    armed = rig.driver._timer
    assert armed is not None
    rig.driver.post_now(ev.LinkDown(1))
    assert rig.driver._timer is armed
    rig.machine.due = rig.clock.time + 0.02
    rig.driver.post_now(ev.LinkDown(2))
    assert armed.cancelled()
    rig.machine.seen.clear()
    rig.machine.rules[ev.Ticked] = lambda event: setattr(rig.machine, "due", None) or []
    rig.clock.time += 0.03
    await rig.until(lambda: rig.machine.events() == [ev.Ticked()])


async def test_due_tick_does_not_starve_behind_a_full_queue(rig: Rig) -> None:
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    rig.machine.due = rig.clock.time + 0.5

    def slow(event: ev.LinkDown) -> list[fx.Effect]:
        rig.clock.time += 0.2
        return []

    rig.machine.rules[ev.LinkDown] = slow
    rig.machine.rules[ev.Ticked] = lambda event: setattr(rig.machine, "due", None) or []
    for number in range(20):
        rig.driver.post(ev.LinkDown(number))
    await rig.until(lambda: len(rig.machine.seen) == 21)
    assert rig.machine.events().index(ev.Ticked()) <= 5


async def test_long_queue_lets_others_run(rig: Rig) -> None:
    def slow(event: ev.LinkDown) -> list[fx.Effect]:
        rig.clock.time += 0.006  # two of these fill a slice of 10 ms
        return []

    rig.machine.rules[ev.LinkDown] = slow
    rig.start()
    await rig.turn()
    for number in range(10):
        rig.driver.post(ev.LinkDown(number))
    turns = 0
    while rig.driver.vitals()["queued_events"]:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 5


async def test_what_is_posted_now_is_stepped_before_the_call_returns(rig: Rig) -> None:
    rig.driver.post_now(ev.LinkDown(1))
    assert rig.machine.events() == []  # not started yet
    rig.start()
    rig.driver.post_now(ev.LinkDown(2))  # behind what waits already
    assert rig.machine.events() == []
    await rig.turn()
    rig.driver.post_now(ev.LinkDown(3))
    assert rig.machine.events() == [ev.LinkDown(1), ev.Ticked(), ev.LinkDown(2), ev.LinkDown(3)]


async def test_what_an_effect_posts_now_is_stepped_after_that_step(rig: Rig) -> None:
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Dial("b:1"), fx.Dial("c:1")] if event.gone else []

    def dial(address: str) -> None:
        rig.driver.post_now(ev.DialFailed(address, False))
        assert len(rig.machine.seen) == 1, "stepped within a step"

    rig.world.dial = dial  # type: ignore[method-assign]
    rig.driver.post_now(ev.DialFailed("a:1", True))
    assert [event.address for event in rig.machine.events()] == ["a:1", "b:1", "c:1"]  # type: ignore[union-attr]


async def test_a_call_and_a_sync_are_stepped_at_once(rig: Rig) -> None:
    rig.machine.rules[ev.Submitted] = lambda event: [fx.Answer(event.call, count=1)]
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    asking = rig.driver.ask(lambda call: ev.Submitted(call, Job("j1", "digest"), ()))
    with pytest.raises(StopIteration) as answered:  # it never waited
        asking.send(None)
    assert answered.value.value.count == 1
    rig.driver.on_synced(0)
    assert [type(event) for event in rig.machine.events()] == [ev.Submitted, ev.JournalSynced]


async def test_suspend_is_told_before_anything_else(rig: Rig) -> None:
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    rig.clock.asleep += 600
    rig.driver.post(ev.LinkDown(1))
    await rig.turn()
    await rig.until(lambda: len(rig.machine.seen) == 2)
    assert rig.machine.events() == [ev.Resumed(600), ev.LinkDown(1)]


async def test_frozen_process_is_told_as_a_suspend(rig: Rig) -> None:
    rig.machine.due = rig.clock.time + 60
    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    rig.clock.time += 60 + FROZEN + 1
    rig.machine.due = None
    rig.driver.post(ev.LinkDown(1))
    await rig.until(lambda: len(rig.machine.seen) == 3)
    assert rig.machine.events() == [ev.Resumed(FROZEN + 1), ev.Ticked(), ev.LinkDown(1)]


async def test_deadline_that_means_at_once_is_no_suspend(rig: Rig) -> None:
    """The machine asks for the next step at once by a deadline in the past, zero included; the computer is long up."""

    def chore(event: ev.LinkDown) -> list[fx.Effect]:
        rig.machine.due = 0.0
        rig.clock.time += 0.1
        return []

    rig.machine.rules[ev.LinkDown] = chore
    rig.machine.rules[ev.Ticked] = lambda event: setattr(rig.machine, "due", None) or []
    rig.start()
    rig.driver.post(ev.LinkDown(1))
    await rig.until(lambda: len(rig.machine.seen) >= 3)
    assert not [event for event in rig.machine.events() if isinstance(event, ev.Resumed)]
    assert rig.driver.vitals()["loop_late"] <= 0.1 + 1e-6


async def test_freeze_in_the_middle_of_a_step_is_told_as_a_suspend(rig: Rig) -> None:
    def frozen(event: ev.LinkDown) -> list[fx.Effect]:
        rig.machine.due = rig.clock.time + 0.2
        rig.clock.time += FROZEN + 1
        return []

    rig.start()
    await rig.turn()
    rig.machine.seen.clear()
    rig.machine.rules[ev.LinkDown] = frozen
    rig.machine.rules[ev.Ticked] = lambda event: setattr(rig.machine, "due", None) or []
    rig.driver.post(ev.LinkDown(1))
    await rig.until(lambda: len(rig.machine.seen) >= 3)
    assert rig.machine.events() == [ev.LinkDown(1), ev.Resumed(pytest.approx(FROZEN + 0.8)), ev.Ticked()]


async def test_call_waits_for_its_own_answer(rig: Rig) -> None:
    calls: list[int] = []
    rig.machine.rules[ev.CancelAsked] = lambda event: calls.append(event.call) or []
    rig.machine.rules[ev.JournalSynced] = lambda event: [fx.Answer(call, count=call) for call in reversed(calls)]
    rig.start()
    one = asyncio.ensure_future(rig.driver.ask(lambda call: ev.CancelAsked(call, "j1")))
    two = asyncio.ensure_future(rig.driver.ask(lambda call: ev.CancelAsked(call, "j2")))
    await rig.until(lambda: len(calls) == 2)
    assert not one.done()
    rig.driver.on_synced(0)
    assert [(await one).count, (await two).count] == calls


async def test_answer_to_a_caller_that_left_is_dropped(rig: Rig) -> None:
    rig.machine.rules[ev.JournalSynced] = lambda event: [fx.Answer(1)]
    rig.start()
    call = asyncio.ensure_future(rig.driver.ask(lambda call: ev.CancelAsked(call, "j1")))
    await rig.turn()
    call.cancel()
    await rig.turn()
    rig.driver.on_synced(0)
    await rig.until(lambda: ev.JournalSynced(0) in rig.machine.events())
    assert not rig.driver.finished.done()


async def test_safe_waits_for_what_was_appended_and_no_more(rig: Rig) -> None:
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Persist(rig.driver.appended + 2, (ROW, ROW))]
    rig.machine.rules[ev.JournalSynced] = lambda event: [fx.Released(event.position)]
    rig.start(position=10)
    await asyncio.wait_for(rig.driver.safe(), 1)
    rig.driver.post(ev.DialFailed("a:1", True))
    await rig.turn()
    first = asyncio.ensure_future(rig.driver.safe())
    await asyncio.sleep(0)
    rig.driver.post(ev.DialFailed("a:1", True))
    await rig.turn()
    second = asyncio.ensure_future(rig.driver.safe())
    rig.clock.time += 0.25
    rig.driver.on_synced(11)
    await rig.turn()
    assert not first.done()
    rig.driver.on_synced(12)
    await asyncio.wait_for(first, 1)
    assert not second.done()
    assert rig.driver.vitals()["journal_sync"] == 0.25
    rig.driver.on_synced(14)
    await asyncio.wait_for(second, 1)


async def test_what_was_pulled_is_journaled_with_its_source(rig: Rig) -> None:
    source = Cursor("other", 7, "d")
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Persist(1, (ROW,), source), fx.Persist(2, (ROW,))]
    rig.driver.post(ev.DialFailed("a:1", True))
    rig.start()
    await rig.turn()
    assert rig.world.told == [("append", 1, source), ("append", 2)]


async def test_a_pull_that_waits_is_answered_once_there_is_more(rig: Rig) -> None:
    cursor = Cursor("journal-1", 1, "x")
    rig.world.rows = [ROW]
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.ServePull("50-B", 7, (cursor,), True)]
    rig.start(position=1)
    rig.driver.post(ev.DialFailed("a:1", True))
    await rig.turn()
    await rig.turn()
    assert ev.SuccessorSynced("50-B", 1) in rig.machine.events()
    assert rig.world.told == []
    rig.world.rows.append(ROW)
    rig.driver.on_synced(2)
    await rig.turn()
    assert rig.world.told == [("send", "50-B", Pulled(7, Cursor("journal-1", 2, "x"), True, encode_records([ROW])))]


async def test_who_waits_for_the_disk_goes_on_after_what_the_machine_says_then(rig: Rig) -> None:
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Persist(1, (ROW,))]
    rig.machine.rules[ev.JournalSynced] = lambda event: [fx.TasksChanged(("t1",)), fx.Released(event.position)]
    rig.start()
    rig.driver.post(ev.DialFailed("a:1", True))
    await rig.turn()
    told: list[Any] = []

    async def wait() -> None:
        await rig.driver.safe()
        told.extend(rig.world.told)

    waiting = asyncio.ensure_future(wait())
    await rig.turn()
    rig.driver.on_synced(1)
    await asyncio.wait_for(waiting, 5)
    assert ("tasks", ("t1",)) in told


async def test_broken_machine_is_never_stepped_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: ev.LinkDown) -> list[fx.Effect]:
        raise AssertionError("two leaders in one body")

    rig.machine.rules[ev.LinkDown] = broken
    rig.driver.post(ev.DialFailed("story", True))
    rig.driver.post(ev.LinkDown(1))
    rig.driver.post(ev.LinkDown(2))
    rig.start()
    assert await asyncio.wait_for(rig.driver.finished, 5) == EXIT_BROKEN
    rig.driver.post(ev.LinkDown(3))
    for _ in range(5):
        await asyncio.sleep(0)
    assert rig.machine.events() == [ev.DialFailed("story", True), ev.LinkDown(1)]
    assert "two leaders in one body" in caplog.text
    assert "DialFailed(address='story'" in caplog.text


async def test_broken_port_is_as_fatal(rig: Rig) -> None:
    rig.machine.rules[ev.LinkDown] = lambda event: [fx.Dial("a:1"), fx.Persist(1, (ROW,))]
    rig.world.dial = lambda address: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    rig.driver.post(ev.LinkDown(1))
    rig.start()
    assert await asyncio.wait_for(rig.driver.finished, 5) == EXIT_BROKEN
    assert rig.world.told == []


@pytest.mark.parametrize(("effect", "code"), [(fx.Drained(), 0), (fx.Exit(76, "copied"), 76)])
async def test_machine_ends_the_process(rig: Rig, effect: fx.Effect, code: int) -> None:
    rig.machine.rules[ev.LinkDown] = lambda event: [effect]
    rig.driver.post(ev.LinkDown(1))
    rig.start()
    assert await asyncio.wait_for(rig.driver.finished, 5) == code


async def test_stopping_tells_all_who_wait(rig: Rig) -> None:
    rig.machine.rules[ev.DialFailed] = lambda event: [fx.Persist(1, (ROW,))]
    rig.start()
    rig.driver.post(ev.DialFailed("a:1", True))
    await rig.turn()
    waiting = [
        asyncio.ensure_future(rig.driver.ask(lambda call: ev.CancelAsked(call, "j1"))),
        asyncio.ensure_future(rig.driver.safe()),
    ]
    await rig.turn()
    rig.driver.stop()
    for waiter in waiting:
        with pytest.raises(NoLeader, match="stopping"):
            await waiter
    with pytest.raises(NoLeader, match="stopping"):
        await rig.driver.ask(lambda call: ev.CancelAsked(call, "j1"))


async def test_notices_are_logged_with_their_fields(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh")
    rig.machine.rules[ev.LinkDown] = lambda event: [fx.Notice("warning", "island", (("name", "b"), ("seconds", 3)))]
    rig.driver.post(ev.LinkDown(1))
    rig.start()
    await rig.turn()
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "island"]
    assert (record.levelname, record.getMessage(), record.fields) == (  # type: ignore[attr-defined]
        "WARNING",
        "name=b seconds=3",
        {"name": "b", "seconds": 3},
    )


def test_system_clock_does_not_take_a_set_wall_clock_for_sleep() -> None:
    clock = SystemClock()
    before = clock.slept()
    assert clock._running is not None  # on Linux and macOS there is an exact one
    assert clock.slept() - before == pytest.approx(0, abs=0.01)
    assert clock.now() <= clock.now()
