"""CRC-32 of joined bytes from the CRC-32s of their parts, without reading them again.

A CRC-32 is a remainder modulo a polynomial over GF(2): to append n bytes multiplies it by x to the power of 8n.
Polynomials are 32-bit integers, the highest bit is the coefficient of 1 (as in zlib).
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_ONE, _X = 1 << 31, 1 << 30


def combine(first: int, second: int, length: int) -> int:
    """``crc32(a + b)`` from ``crc32(a)``, ``crc32(b)`` and the length of b: 4 µs, where 100 kB of b take 25."""
    return _times(_shift(length), first) ^ second


@lru_cache(4096)  # records of a run come in a few sizes
def _shift(length: int) -> int:
    """x to the power of 8 · ``length``, by squaring."""
    result, factor = _ONE, _X
    for _ in range(3):
        factor = _times(factor, factor)
    while length:
        if length & 1:
            result = _times(factor, result)
        factor = _times(factor, factor)
        length >>= 1
    return result


def _times(a: int, b: int) -> int:
    product, bit = 0, _ONE
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product
