"""The pure core: decides everything, touches nothing.

No module in this package reads a clock, draws a random number, opens a file or a socket, or starts a thread. Time
arrives as the ``now`` of :meth:`mesh.core.machine.Machine.step`; whatever must happen in the world leaves as an
effect. Read ``lattice`` (what is remembered), ``election`` (who grants), ``matching`` (who gets what) and ``machine``
(how they meet) in that order.
"""
