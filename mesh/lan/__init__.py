"""Finding daemons: on this machine by the runtime directory, on the network by mDNS.

Nothing is imported here: a local client reads :mod:`mesh.lan.local` and pays nothing for multicast.
"""
