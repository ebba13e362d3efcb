"""Which ready task is next."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.lattice import Resources, Shape, Task
from mesh.core.ready import LEAST_WEIGHT, Loads, Ready
from tests.core.bids import need, shape, tasks


def drain(ready: Ready, loads: Loads | None = None) -> list[str]:
    """Everything, in order; nothing is counted as granted unless ``loads`` is given."""
    order = []
    while heads := list(ready.classes(loads or Loads())):
        task = ready.pop(heads[0])
        if loads is not None:
            loads.opened(task.job, task.shape.alternatives[0])
        order.append(task.id)
    return order


def push_all(ready: Ready, each: list[Task], priority: int = 5, order: int = 0) -> None:
    for task in each:
        ready.push(task, priority, order)


def test_priority_then_order_of_jobs_then_index() -> None:
    ready = Ready()
    push_all(ready, tasks("b", 2), order=1)
    push_all(ready, tasks("a", 2), order=2)
    push_all(ready, tasks("c", 1), priority=6, order=3)
    assert drain(ready) == ["c-00000", "b-00000", "b-00001", "a-00000", "a-00001"]


def test_classes_of_one_job_are_served_by_index_across_shapes() -> None:
    ready = Ready()
    small, large = shape(), shape(need(4))
    each = [Task(f"j-{i}", "j", i, "", large if i % 3 else small, b"") for i in range(7)]
    push_all(ready, each[::-1])
    assert drain(ready) == [f"j-{i}" for i in range(7)]


def test_the_job_that_holds_less_goes_first_and_weight_counts_cores() -> None:
    ready, loads = Ready(), Loads()
    push_all(ready, tasks("large", 3, shape(need(4))), order=0)
    push_all(ready, tasks("small", 9), order=1)
    # One 4-core task is as much as four of one core; the older job goes first where both hold the same.
    assert [name[0] for name in drain(ready, loads)] == list("lsssslssssls")


def test_tasks_that_ask_for_nothing_still_count() -> None:
    loads = Loads()
    loads.opened("j", Resources(0))
    assert loads.weight("j") == LEAST_WEIGHT
    loads.opened("j", Resources(0, 0, 2000))
    assert (loads.count("j"), loads.weight("j")) == (2, LEAST_WEIGHT + 2000)
    loads.closed("j", Resources(0, 0, 2000))
    loads.closed("j", Resources(0))
    assert (loads.count("j"), loads.weight("j")) == (0, 0)


def test_ten_late_tasks_do_not_wait_for_the_thousands_before_them() -> None:
    ready, loads = Ready(), Loads()
    push_all(ready, tasks("many", 5000), order=0)
    first = next(ready.classes(loads))
    for _ in range(8):
        loads.opened("many", ready.pop(first).shape.alternatives[0])
    push_all(ready, tasks("few", 10), order=1)
    order = []
    for _ in range(30):
        task = ready.pop(next(ready.classes(loads)))
        loads.opened(task.job, task.shape.alternatives[0])
        order.append(task.job)
    assert order[:8] == ["few"] * 8
    assert order.count("few") == 10
    assert order[:12].count("few") == 10


def test_a_paused_job_is_not_seen_and_keeps_its_place() -> None:
    ready = Ready()
    push_all(ready, tasks("a", 1), order=0)
    push_all(ready, tasks("b", 1), order=1)
    ready.pause("a")
    assert [cls.job for cls in ready.classes(Loads())] == ["b"]
    assert ready.is_paused("a")
    assert len(ready) == 2
    ready.pause("a", False)
    assert [cls.job for cls in ready.classes(Loads())] == ["a", "b"]


def test_pushed_again_a_task_moves_and_is_there_once() -> None:
    ready = Ready()
    first, second = tasks("j", 2)
    push_all(ready, [first, second])
    ready.push(second, 8, 0, own=True)
    ready.push(second, 8, 0, own=True)
    assert len(ready) == 2
    assert drain(ready) == [second.id, first.id]


def test_a_removed_task_is_gone_and_may_come_back() -> None:
    ready = Ready()
    each = tasks("j", 3)
    push_all(ready, each)
    ready.remove(each[0].id)
    ready.remove("unknown")
    assert each[0].id not in ready
    assert len(ready) == 2
    ready.push(each[0], 5, 0)
    assert drain(ready) == [task.id for task in each]
    assert len(ready) == 0


def test_retries_wait_and_wake_in_time() -> None:
    ready = Ready()
    late, early = tasks("j", 2)
    ready.push_later(late, 5, 0, at=9.0)
    ready.push_later(early, 5, 0, at=3.0)
    assert (len(ready), ready.waiting, ready.next_wake()) == (0, 2, 3.0)
    ready.wake(2.9)
    assert len(ready) == 0
    ready.wake(3.0)
    assert drain(ready) == [early.id]
    assert ready.waits_until(late.id) == 9.0
    ready.push_later(late, 5, 0, at=12.0)  # again, and the first alarm means nothing any more
    ready.wake(9.0)
    assert len(ready) == 0
    assert ready.next_wake() == 12.0
    ready.remove(late.id)
    assert ready.next_wake() is None
    ready.wake(20.0)
    assert len(ready) == 0


def test_a_jobs_new_priority_leaves_alone_what_has_its_own() -> None:
    ready = Ready()
    plain, special, waiting = tasks("j", 3)
    other = tasks("o", 1)[0]
    ready.push(plain, 5, 0)
    ready.push(special, 5, 0, own=True)
    ready.push_later(waiting, 5, 0, at=1.0)
    ready.push(other, 6, 1)
    ready.reprioritise("j", 7)
    ready.wake(1.0)
    assert drain(ready) == [plain.id, waiting.id, other.id, special.id]


def test_classes_that_meet_at_a_new_priority_become_one() -> None:
    ready = Ready()
    each = tasks("j", 4)
    for task, priority in zip(each, (5, 7, 5, 7), strict=True):
        ready.push(task, priority, 0)
    ready.reprioritise("j", 7)
    assert len(list(ready.classes(Loads()))) == 1
    assert drain(ready) == [task.id for task in each]


def test_a_job_is_forgotten_whole() -> None:
    ready = Ready()
    push_all(ready, tasks("j", 3))
    ready.push_later(tasks("j", 1, start=9)[0], 5, 0, at=1.0)
    push_all(ready, tasks("o", 1), order=1)
    ready.limit("j", 2)
    ready.pause("j")
    ready.remove_job("j")
    ready.wake(2.0)
    assert drain(ready) == ["o-00000"]
    assert (ready.limit_of("j"), ready.is_paused("j"), ready.waiting) == (0, False, 0)


def test_a_job_is_detached_at_once_and_forgotten_task_by_task() -> None:
    ready = Ready()
    push_all(ready, tasks("j", 3))
    ready.push_later(tasks("j", 1, start=9)[0], 5, 0, at=1.0)
    push_all(ready, tasks("o", 1), order=1)
    ready.limit("j", 2)
    ready.pause("j")
    ready.detach("j")
    ready.wake(2.0)
    assert (ready.limit_of("j"), ready.is_paused("j"), ready.waiting, len(ready)) == (0, False, 0, 4)
    for task in tasks("j", 4):
        ready.forget(task.id)
    assert len(ready) == 1
    assert drain(ready) == ["o-00000"]


SHAPES = (Shape(), Shape((Resources(2000),)), Shape(kind="x"))
OPERATIONS = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 11), st.integers(4, 6), st.booleans()),
    st.tuples(st.just("later"), st.integers(0, 11), st.integers(4, 6), st.integers(0, 5)),
    st.tuples(st.just("remove"), st.integers(0, 11)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("wake"), st.integers(0, 5)),
    st.tuples(st.just("job"), st.integers(0, 1), st.integers(4, 6)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATIONS, max_size=40))
def test_the_same_as_a_plain_table(operations: list[tuple[object, ...]]) -> None:
    ready = Ready()
    table: dict[str, tuple[Task, int, bool, float | None]] = {}  # priority, own, waits until
    every = [Task(f"t{i:02}", f"j{i % 2}", (i * 7) % 5, "", SHAPES[i % 3], b"") for i in range(12)]
    for operation in operations:
        match operation:
            case ("push", int(i), int(priority), bool(own)):
                ready.push(every[i], priority, i % 2, own)
                table[every[i].id] = (every[i], priority, own, None)
            case ("later", int(i), int(priority), int(at)):
                ready.push_later(every[i], priority, i % 2, float(at))
                table[every[i].id] = (every[i], priority, False, float(at))
            case ("remove", int(i)):
                ready.remove(every[i].id)
                table.pop(every[i].id, None)
            case ("wake", int(now)):
                ready.wake(float(now))
                for name, (task, priority, own, at) in list(table.items()):
                    if at is not None and at <= now:
                        table[name] = (task, priority, own, None)
            case ("job", int(job), int(priority)):
                ready.reprioritise(f"j{job}", priority)
                for name, (task, _old, own, at) in list(table.items()):
                    if task.job == f"j{job}" and not own:
                        table[name] = (task, priority, own, at)
            case _:
                now_ready = [entry for entry in table.values() if entry[3] is None]
                heads = list(ready.classes(Loads()))
                assert bool(heads) == bool(now_ready)
                if heads:
                    best = min(now_ready, key=lambda e: (-e[1], int(e[0].job[1]), e[0].index, e[0].id))[0]
                    assert ready.peek(heads[0]) is best
                    assert ready.pop(heads[0]) is best
                    del table[best.id]
        assert len(ready) == sum(entry[3] is None for entry in table.values())
        assert ready.waiting == len(table) - len(ready)


def test_entries_of_removed_tasks_do_not_pile_up() -> None:
    ready = Ready()
    each = tasks("j", 10)
    push_all(ready, each)
    for _ in range(500):
        for task in each[1:]:
            ready.remove(task.id)
        push_all(ready, each[1:])
    cls = next(ready.classes(Loads()))
    assert len(cls.run) + len(cls.late) < 200
    assert drain(ready) == [task.id for task in each]
