"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

_SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZES[_letter + "b"] = 1000**_power
    _SIZES[_letter + "ib"] = 1024**_power

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")

# A number without these bounds reaches fields of 64 bits.
LARGEST_SIZE = 2**60
LARGEST_DURATION_MS = 10 * 365 * 86_400_000


def size(value: object) -> int:
    """Bytes of ``4GiB`` (1024s), ``512MB`` (1000s) or a plain whole number.

    Raises ValueError that says what is wrong.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a size; write it like 4GiB, 512MB or a number of bytes")
        number, unit = match[1], match[2].lower()
        if unit not in _SIZES:
            raise ValueError(
                f"{value!r} has the unknown unit {match[2]!r}; use B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"
            )
        found = int(Decimal(number) * _SIZES[unit])
    else:
        raise ValueError(f"{value!r} is not a size; write it like 4GiB, 512MB or a whole number of bytes")
    if not 0 <= found <= LARGEST_SIZE:
        raise ValueError(f"{value!r} is not between 0 and {LARGEST_SIZE >> 50}PiB")
    return found


def duration_ms(value: object) -> int:
    """Milliseconds of ``250ms``, ``1s``, ``5m``, ``6h``, ``2d``, ``1h30m`` or a plain number of seconds.

    Raises ValueError that says what is wrong.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = int(Decimal(str(value)) * 1000)
    elif isinstance(value, str) and value and _DURATION.sub("", value.strip()) == "":
        found = int(sum(Decimal(number) * _MILLISECONDS[unit] for number, unit in _DURATION.findall(value)))
    else:
        raise ValueError(f"{value!r} is not a duration; write it like 250ms, 30s, 5m, 6h or a number of seconds")
    if not 0 <= found <= LARGEST_DURATION_MS:
        raise ValueError(f"{value!r} is not between 0 and ten years")
    return found
