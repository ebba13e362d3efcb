"""What room a node has, and the reasons where it has none."""

from __future__ import annotations

import pytest

from mesh.core.account import BARRED_FOR, Account
from mesh.core.held import Place
from mesh.core.lattice import Resources, Shape
from mesh.core.reasons import Why
from tests.core.bids import GIB, bid, gpu, need, offer, shape

MOST = 4096


def ask(account: Account, what: Shape, priority: int = 5, now: float = 0.0) -> Place | Why:
    suit = account.suits(what, priority)
    return suit.why or account.place(what, suit.alternatives, 1_000_000, MOST, now)


def fill(account: Account, what: Shape, most: int = 10_000) -> tuple[int, int]:
    """Grants until there is no more room: how many may begin, how many queue."""
    begin = queue = 0
    for number in range(most):
        place = ask(account, what)
        if isinstance(place, Why):
            break
        account.take(f"{what.kind}-{number}", "j", what, place, 0.0)
        begin, queue = begin + (not place.queued), queue + place.queued
    return begin, queue


CARDS = (gpu(0), gpu(1, 8 * GIB))

REASONS = [
    (shape(need(16)), {}, True, "its 4 cores cannot hold 16"),
    (shape(need(1.5, memory=32 * GIB)), {}, True, "its 16 GiB of memory cannot hold 32 GiB"),
    (shape(need(gpus=2, gpu_memory=12 * GIB)), {}, True, "needs 2 GPUs with 12 GiB, offers none"),
    (shape(need(gpus=2, gpu_memory=12 * GIB)), {"devices": CARDS}, True, "needs 2 GPUs with 12 GiB, offers 1"),
    (shape(need(gpus=1, device="mps")), {"devices": CARDS}, True, "needs 1 mps GPU, offers none"),
    (shape(need(device="cuda")), {}, True, "needs 1 cuda GPU, offers none"),
    (shape(need(gpus=1, device="cpu")), {"devices": CARDS}, True, "asks for 1 GPU on device cpu"),
    (shape(need(labels=(("zone", "lab"),))), {}, True, "label zone=lab missing"),
    (shape(need(profile="gpu_high")), {}, True, "profile is cpu_x86, not gpu_high"),
    (shape(python="3.12"), {}, True, "Python 3.11 only (task needs 3.12)"),
    (shape(), {"min_priority": 7}, True, "min priority 7, task has 5"),
    (shape(), {"max_priority": 3}, True, "max priority 3, task has 5"),
    (shape(), {"slots": 0}, True, "offers no slots"),
    (
        shape(need(gpus=1), need(16)),
        {},
        True,
        "needs 1 GPU, offers none; or its 4 cores cannot hold 16",
    ),
]


@pytest.mark.parametrize(("what", "machine", "never", "words"), REASONS)
def test_what_no_waiting_changes(what: Shape, machine: dict[str, object], never: bool, words: str) -> None:
    why = ask(Account("n", bid(offer(**machine))), what)
    assert isinstance(why, Why)
    assert str(why) == words
    assert why.never is never


def test_what_waiting_may_change() -> None:
    silent = Account("n")
    assert str(silent.away()) == "has not bid yet"
    battery = Account("n", bid(offer(unwilling="on battery")))
    assert str(battery.away()) == "unwilling: on battery"
    barred = Account("n", bid())
    barred.barred = "quarantined: 5 of 5 tasks failed here"
    assert str(barred.shut(MOST)) == "quarantined: 5 of 5 tasks failed here"
    busy = Account("n", bid(offer(memory=8 * GIB, devices=(gpu(0),))))
    busy.take("t", "j", shape(need(3, 6 * GIB, 1), kind="other"), Place(0, False, False, 0, ("cuda:0",)), 0.0)
    assert str(ask(busy, shape(need(2)))) == "busy: needs 2 cores, 1 of 4 free"
    assert str(ask(busy, shape(need(1, 3 * GIB)))) == "busy: needs 3 GiB of memory, 2 GiB of 8 GiB free"
    assert str(ask(busy, shape(need(0.5, gpus=0.25)))) == "busy: needs 0.25 GPU, none free now"
    full = Account("n", bid(offer(slots=1), k=10_000_000))
    fill(full, shape())
    assert str(full.shut(MOST)) == "busy: its slot is taken"
    for why in (silent.away(), battery.away(), full.shut(MOST), ask(busy, shape(need(2)))):
        assert isinstance(why, Why)
        assert not why.never


def test_what_a_node_says_it_cannot_serve_is_believed_for_a_while() -> None:
    account = Account("n", bid())
    there, elsewhere = shape(cwd="/x"), shape(cwd="/y")
    account.bar("/x", "directory /x is not there", 10.0)
    assert str(ask(account, there)) == "directory /x is not there"
    assert isinstance(ask(account, elsewhere), Place)
    assert account.next_pardon() == 10.0 + BARRED_FOR
    account.pardon(9.0 + BARRED_FOR)
    assert isinstance(ask(account, there), Why)
    account.pardon(10.0 + BARRED_FOR)
    assert isinstance(ask(account, there), Place)
    account.bar(there, "it broke", 0.0)
    account.bar("k", "no such program", 0.0)
    assert str(ask(account, there)) == "it broke"
    assert str(ask(account, elsewhere)) == "no such program"


def test_a_changed_offer_is_looked_at_again() -> None:
    account = Account("n", bid(offer(cores=4)))
    what = shape(need(8))
    assert isinstance(ask(account, what), Why)
    account.apply_bid(bid(offer(cores=8)))
    assert isinstance(ask(account, what), Place)


# -- room --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micros", "slots", "queued"),
    [
        (None, 4, 1),  # one behind its own kind
        (50_000, 4, 4),  # exactly the allowance: one per slot
        (50_001, 4, 0),  # longer: never behind others
        (10_000, 2, 10),
        (100, 2, 1000),
        (1, 2, MOST),  # capped
    ],
)
def test_how_much_may_queue(micros: int | None, slots: int, queued: int) -> None:
    speeds = {} if micros is None else {"k": micros}
    account = Account("n", bid(offer(slots=slots), **speeds))
    assert fill(account, shape()) == (slots, queued)


def test_queue_room_comes_back_as_tasks_end_and_run_room_with_a_bid() -> None:
    account = Account("n", bid(offer(slots=2), k=10_000))
    what = shape()
    fill(account, what)
    for number in range(6):
        held = account.drop(f"k-{number}")
        assert held is not None
        assert held.need == need()
    assert account.drop("k-0") is None
    assert fill(account, shape(kind="k")) == (0, 6)
    account.apply_bid(bid(offer(slots=2), k=10_000))
    assert isinstance(ask(account, what), Why)  # what is known to be open there counts, whatever the bid says
    assert len(account) == 12


def test_grants_that_the_bid_does_not_count_are_subtracted() -> None:
    card = gpu(0)
    account = Account("n")
    account.apply_bid(bid(offer(devices=(card,))), [(need(3, GIB, 0.75), ("cuda:0",))])
    assert (account.free_slots, account.free_millicpus, account.free_memory) == (3, 1000, 15 * GIB)
    assert account.shares == {"cuda:0": 250}
    assert isinstance(ask(account, shape(need(1, 15 * GIB, 0.25))), Place)
    assert isinstance(ask(account, shape(need(1, 0, 0.5))), Why)


def test_what_waits_in_the_workers_queue_is_not_free_though_its_bid_shows_it() -> None:
    account = Account("n", bid(offer(slots=4), large=10_000_000))
    account.hold("running", "j", shape(need(3), kind="large"), 0, (), 0.0)
    account.hold("queued", "j", shape(need(4, 12 * GIB), kind="large"), 0, (), 0.0)
    account.apply_bid(bid(offer(slots=4))._replace(free_slots=3, free_millicpus=1000))
    assert (account.free_slots, account.free_millicpus, account.free_memory) == (2, -3000, 4 * GIB)
    assert isinstance(ask(account, shape(need(1))), Why)


def test_nothing_queues_behind_what_runs_for_long() -> None:
    account = Account("n", bid(offer(slots=1), short=1000, long=10_000_000))
    assert fill(account, shape(kind="long")) == (1, 0)
    assert fill(account, shape(kind="short")) == (0, 0)
    assert fill(account, shape(kind="new")) == (0, 0)
    # And what takes longer than the allowance queues behind nothing.
    quick = Account("n", bid(offer(slots=2), short=1000, brief=50_001))
    assert fill(quick, shape(kind="short"), 2) == (2, 0)
    assert fill(quick, shape(kind="brief")) == (0, 0)
    # With one more slot, short ones go through that one.
    roomy = Account("n", bid(offer(slots=2), short=1000, long=10_000_000))
    assert fill(roomy, shape(kind="long"), 1) == (1, 0)
    assert fill(roomy, shape(kind="short")) == (1, 50)


def test_a_queued_task_waits_for_one_whose_end_makes_room() -> None:
    account = Account("n", bid())
    assert fill(account, shape(need(1), kind="new"), 4) == (4, 0)
    assert isinstance(ask(account, shape(need(2), kind="new")), Why)
    assert isinstance(ask(account, shape(need(1), kind="another")), Why)
    place = ask(account, shape(need(1), kind="new"))
    assert isinstance(place, Place)
    assert place.late


def test_a_kind_once_measured_moves_what_is_open_of_it() -> None:
    account = Account("n", bid(offer(slots=2)))
    assert fill(account, shape()) == (2, 1)
    account.apply_bid(bid(offer(slots=2), k=10_000))
    assert (account.unknown.count, account.short.count, account.short.work) == (0, 3, 30_000)
    account.apply_bid(bid(offer(slots=2), k=60_000_000))
    assert (account.short.count, account.short.work, account.long.count) == (0, 0, 3)
    for number in range(3):
        account.drop(f"k-{number}")
    assert (account.long.count, account.long.work, account.long.millicpus) == (0, 0, 0)


def test_strangers_take_lanes() -> None:
    """The worker runs one attempt that this leader does not know: short tasks go through the other slot alone."""
    one_free = bid(offer(slots=2), k=10_000)._replace(free_slots=1, free_millicpus=3000)
    account = Account("n", one_free)
    assert fill(account, shape()) == (1, 5)
    none_free = Account("n", one_free._replace(free_slots=0))
    assert fill(none_free, shape()) == (0, 0)


def test_an_attempt_found_on_a_node_counts_without_its_need() -> None:
    account = Account("n", bid(offer(slots=2)))
    for _ in range(2):
        account.hold("old", "j", shape(need(4)), None, (), 0.0)
    account.apply_bid(bid(offer(slots=2))._replace(free_slots=1, free_millicpus=0))
    assert len(account) == 1
    assert (account.free_slots, account.free_millicpus, account.totals().millicpus) == (1, 0, 0)


# -- cards -------------------------------------------------------------------------------------------------------------


def devices(account: Account, what: Resources) -> tuple[str, ...] | str:
    place = ask(account, shape(what))
    if isinstance(place, Why):
        return str(place)
    account.take(f"t{len(account)}", "j", shape(what), place, 0.0)
    return place.devices


def test_cards_with_most_measured_free_memory_go_first() -> None:
    cards = (gpu(0, free=2 * GIB), gpu(1, free=20 * GIB), gpu(2, free=20 * GIB), gpu(3, free=22 * GIB))
    account = Account("n", bid(offer(slots=9, cores=9, devices=cards)))
    assert devices(account, need(gpus=2, gpu_memory=12 * GIB)) == ("cuda:3", "cuda:1")
    assert devices(account, need(gpus=1, gpu_memory=12 * GIB)) == ("cuda:2",)
    assert devices(account, need(gpus=1, gpu_memory=12 * GIB)) == "busy: needs 1 GPU with 12 GiB, none free now"
    assert devices(account, need(gpus=1)) == ("cuda:0",)
    assert devices(account, need(device="cpu")) == ()


def test_shares_of_a_card_and_of_its_memory() -> None:
    account = Account("n", bid(offer(slots=9, cores=9, devices=(gpu(0, 24 * GIB), gpu(1, 16 * GIB)))))
    assert devices(account, need(gpus=0.5, gpu_memory=10 * GIB)) == ("cuda:0",)
    assert devices(account, need(gpus=0.5, gpu_memory=10 * GIB)) == ("cuda:1",)  # 14 GiB are left on the first
    assert devices(account, need(gpus=0.5, gpu_memory=10 * GIB)) == ("cuda:0",)
    assert "none free" in devices(account, need(gpus=0.5, gpu_memory=10 * GIB))
    assert "none free" in devices(account, need(gpus=1))
    assert devices(account, need(gpus=0.5)) == ("cuda:1",)
    account.drop("t1")  # 10 GiB on the second card come back, as soon as they are measured
    account.apply_bid(account.bid)  # type: ignore[arg-type]
    assert devices(account, need(gpus=0.5, gpu_memory=10 * GIB)) == ("cuda:1",)


def test_nothing_queues_for_cards_that_an_attempt_of_another_leader_has() -> None:
    """Its need is not known here, but the bid says what is free. What it keeps from beginning comes back at once."""
    card = bid(offer(slots=3, devices=(gpu(0),)), tiny=2_000, long=30_000_000)
    account = Account("n", card)
    account.hold("theirs", "j", shape(need(gpus=1), kind="long"), None, (), 0.0)
    account.apply_bid(card._replace(free_slots=2, devices=(("cuda:0", 0),)))
    assert "busy" in str(ask(account, shape(need(gpus=1), kind="tiny")))
    assert ask(account, shape(kind="tiny")) == Place(0, False, False, 2_000, ())
    account.drop("theirs")
    account.apply_bid(card)
    assert fill(account, shape(need(gpus=1), kind="tiny"))[1] > 1


def test_kinds_of_cards() -> None:
    account = Account("n", bid(offer(slots=9, cores=9, devices=(gpu(0), gpu(0, kind="mps", memory=32 * GIB)))))
    assert devices(account, need(device="cuda")) == ("cuda:0",)
    assert devices(account, need(gpus=1.5)) == "busy: needs 1.5 GPUs, 1 free now"
    assert devices(account, need(gpus=1)) == ("mps:0",)
