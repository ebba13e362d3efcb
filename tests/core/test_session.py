"""Orders from leader to worker: numbered, repeated until applied, and never taken for those of another session."""

from __future__ import annotations

from mesh.core.effects import Effect
from mesh.core.lattice import OFFERED, RUNNING, Attempt, Resources
from mesh.core.messages import Orders, Report
from mesh.core.session import ORDER_BYTES, Session, Talk
from tests.core.bids import bid, need
from tests.core.parts import PARAMS, claim, grant, messages, node, outbox, task

LEADER = claim("a", 3)


class Rig:
    """The leader's session with worker ``b``."""

    def __init__(self) -> None:
        self.out = outbox("a")
        self.session = Session(node("b"), "b1", 7, Talk())
        self.now = 10.0

    def send(self) -> list[Orders]:
        self.session.send(LEADER, PARAMS, self.out, self.now)
        effects: list[Effect] = self.out.flush()
        return messages(Orders, effects, "b")

    def grant(self, *names: str, payload: bytes = b"", needs: Resources | None = None) -> None:
        for name in names:
            self.session.grant(grant(name, task(f"t{name}")._replace(payload=payload)), needs or Resources())

    def report(self, applied: int = 0, declares: int = 0, slices: int = 0, *attempts: Attempt) -> None:
        self.session.on_report(Report(LEADER, "b1", applied, attempts, (), bid(), declares, (), 7, slices))


def test_orders_are_numbered_from_one_and_carry_claim_and_session() -> None:
    rig = Rig()
    rig.grant("1", "2")
    (first,) = rig.send()
    assert (first.claim, first.seq, first.session) == (LEADER, 1, 7)
    assert [g.attempt for g in first.grants] == ["1", "2"]
    assert rig.send() == []
    rig.grant("3")
    assert [orders.seq for orders in rig.send()] == [2]


def test_what_is_not_applied_in_time_is_sent_again_in_order() -> None:
    rig = Rig()
    rig.grant("1")
    first = rig.send()
    rig.now += 0.5
    rig.grant("2")
    second = rig.send()
    assert rig.session.deadline(PARAMS) == 11.0
    rig.now = 10.99
    assert rig.send() == []
    rig.now = 11.0
    assert rig.send() == first + second
    assert rig.send() == []
    rig.now = 12.0
    assert rig.send() == first + second


def test_what_was_applied_is_not_sent_again() -> None:
    rig = Rig()
    rig.grant("1")
    rig.send()
    rig.grant("2")
    second = rig.send()
    rig.report(applied=1)
    rig.now += 1.0
    assert rig.send() == second
    rig.report(applied=2)
    assert rig.session.deadline(PARAMS) is None
    rig.now += 1.0
    assert rig.send() == []


def test_a_report_that_was_overtaken_takes_nothing_back() -> None:
    rig = Rig()
    rig.grant("1")
    rig.send()
    rig.report(applied=1)
    rig.report(applied=0)
    assert rig.session.applied == 1


def test_a_count_beyond_what_was_sent_is_not_believed() -> None:
    rig = Rig()
    rig.grant("1")
    rig.send()
    rig.report(applied=99)
    assert rig.session.applied == 1


def test_only_what_the_worker_did_not_apply_is_missing_in_its_bid() -> None:
    rig = Rig()
    rig.grant("1", needs=need(1))
    rig.send()
    rig.report(applied=1)
    rig.grant("2", needs=need(2))
    rig.send()
    assert rig.session.uncounted() == [(need(2), ())]


def test_a_recall_is_sent_once_however_often_it_is_decided() -> None:
    rig = Rig()
    rig.session.recall("1", "cancelled")
    rig.session.recall("1", "again")
    (orders,) = rig.send()
    assert orders.recalls == (("1", "cancelled"),)
    rig.session.recall("1", "and again")
    assert rig.send() == []


def test_acknowledgements_stand_outside_the_numbering() -> None:
    rig = Rig()
    orders = rig.session.answer(LEADER, ("1",), ("2",))
    assert (orders.seq, orders.acks, orders.unknown, orders.session) == (0, ("1",), ("2",), 7)
    rig.grant("3")
    assert rig.send()[0].seq == 1


def test_payloads_beyond_a_mebibyte_go_in_several_messages() -> None:
    rig = Rig()
    rig.grant("1", "2", "3", "4", payload=bytes(ORDER_BYTES // 2 + 1))
    assert [[g.attempt for g in orders.grants] for orders in rig.send()] == [["1", "2"], ["3", "4"]]


def test_one_message_holds_a_slice_of_grants_at_most() -> None:
    rig = Rig()
    rig.grant(*(str(i) for i in range(PARAMS.slice_records + 1)))
    assert [len(orders.grants) for orders in rig.send()] == [PARAMS.slice_records, 1]


def test_a_complete_declaration_is_confirmed_even_if_nothing_is_granted() -> None:
    rig = Rig()
    assert rig.send() == []
    rig.session.complete = True
    (orders,) = rig.send()
    assert (orders.seq, orders.grants) == (1, ())
    assert rig.send() == []


def test_a_declaration_is_whole_when_all_its_slices_came_in_any_order_and_any_number_of_times() -> None:
    phases = (OFFERED, RUNNING, RUNNING)
    held = [Attempt("t", str(number), False, 1, phase, 1, node("b")) for number, phase in enumerate(phases)]
    rig = Rig()
    for declares in (1, 3, 3, 1):
        rig.report(0, declares, 3, held[declares - 1])
        assert not rig.session.declared_whole
    rig.report(0, 2, 3, held[1])
    assert rig.session.declared_whole
    assert sorted(rig.session.declared) == ["0", "1", "2"]


def test_a_declaration_that_was_dealt_with_is_not_dealt_with_again() -> None:
    rig = Rig()
    rig.report(0, 1, 1)
    rig.session.complete, rig.session.declared_whole = True, False
    rig.report(0, 1, 1, Attempt("t", "x", False, 0, OFFERED, 1, node("b")))
    assert not rig.session.declared_whole
    assert rig.session.declared == {}
