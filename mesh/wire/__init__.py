"""The only codecs between the core's tuples and the protobuf messages of ``mesh/v1``.

Non-goals: no decision is taken here, nothing is sent or stored. A field or a kind that a newer version added is passed
over; bytes that are no message raise :class:`mesh.wire.errors.WireError`.
"""
