"""What names the random numbers of an update: the same for every backend."""

import zlib


def seed_of(seed: int, phase: str, number: int, name: str) -> int:
    """First half of the seed of one array of draws, below 2^63; the second half is the number of rounds done.

    Args:
        seed: of the run, below 2^31.
        phase: its name.
        number: of the update within its phase's round.
        name: what the method calls the array.
    """
    return seed * (1 << 31) + (zlib.crc32(f"{phase}/{number}/{name}".encode()) & 0x7FFFFFFF)
