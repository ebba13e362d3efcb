"""The one error of the codecs."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from mesh.core.errors import MeshError

# What protobuf raises for bytes that are no message, and for values that fit no message: an integer beyond 64 bits, a
# string with lone surrogates (a file name that is not UTF-8), a value of another type.
UNREADABLE = (DecodeError,)
UNWRITABLE = (ValueError, TypeError)


class WireError(MeshError):
    """Bytes that cannot be read as what they should be, or a value that no message can hold."""


def unreadable(kind: str, error: Exception) -> WireError:
    return WireError(
        f"a {kind} cannot be read", str(error) or "its bytes are malformed", "were they cut, or made by something else?"
    )


def unwritable(kind: str, error: Exception) -> WireError:
    return WireError(f"a {kind} cannot be written", str(error), "text must be valid Unicode, integers below 2**63")
