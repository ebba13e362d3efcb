"""The times and limits of the protocol, in seconds unless named otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Params:
    """Presets are :func:`lan` and :func:`local`, not knobs: only what a mesh replicates is meant to be changed."""

    heartbeat: float = 0.5
    suspect_after: float = 1.5  # three heartbeats
    silent_after: float = 2.2  # over, unless refuted
    provisional: float = 3.0  # a provisional claim is established when no incumbent was found for this long
    settle: float = 10.0  # a returning lower id stays steady for this long before it asks; doubled per lost leadership
    settle_limit: float = 600.0
    yield_timeout: float = 1.0  # the incumbent re-claims when the asker did not claim by then
    takeover_grace: float = 0.3  # a new leader grants what is surely free only after this
    lost_after: float = 30.0
    max_lost: int = 3  # a task that kills machines ends
    redial_limit: float = 5.0
    bar_limit: float = (
        60.0  # who sent what no correct node sends gets no link for redial_limit, then doubled up to this
    )
    resend_after: float = 1.0
    pull_timeout: float = 2.0  # a puller gives a silent source this long
    resume_wait: float = 1.0  # after a suspend a leader grants nothing until members answered or this has passed
    mature_after: float = 60.0  # two members together for this long, and the mesh is no longer young
    successors: int = 2
    copy_wait: float = 1.0  # a new leader whose successors still catch up acknowledges nothing alone for this long
    slow_sync: float = 5.0  # a journal that did not sync for this long makes its node yield
    long_sync: float = 0.5  # who took this long while it settled asks nobody to yield: a claim waits for its sync
    slice_records: int = 2000  # per message and step, so that no step takes longer than 20 ms
    seek_again: float = 1.0  # a blob that is sought is asked for again; who asked lately is known as one who fetches
    copy_again: float = 5.0  # a node that was asked to copy a blob is reminded
    copy_pardon: float = 60.0  # one that could not is not asked again for so long
    allowance: float = 0.05  # seconds of queued work per slot, or two round trips if that is more
    allowance_tasks: int = 4096


def lan() -> Params:
    return Params()


def local() -> Params:
    return Params(settle=2.0)
