"""The pure core: decides everything, touches nothing.

No module in this package reads a clock, draws a random number, opens a file or a socket, or starts a thread. Time
arrives as the ``now`` of :meth:`mesh.core.machine.Machine.step`; whatever must happen in the world leaves as an
effect.

A way to read it, about 250 lines each:

* what is remembered: ``ids``, ``lattice`` (the records and their joins), ``ledger`` (joined, with what is derived),
  ``compaction`` (what of it is still of use)
* what is said: ``messages`` between nodes, ``events`` in, ``effects`` out, ``outbox`` (what waits for the disk)
* who is there and who grants: ``members``, ``election``, ``identity``, ``puller`` (journals of others)
* what becomes of tasks: ``tasks`` (one decision per task), ``control`` (what users ask), ``owners`` (what must not
  run twice), ``leader`` and ``session`` (nodes, grants, losses), ``worker`` (the other end)
* who gets what: ``ready`` (whose turn), ``matching`` (which node) with ``turn`` (the best one for a shape) and
  ``ballot`` (and why), on ``account``, ``changes``, ``held``, ``needs``, ``kept`` and ``opening`` (reservations),
  ``reasons`` (the words)
* how they meet: ``machine``
"""
