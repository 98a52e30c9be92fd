"""How the C library hands out memory."""

import ctypes

# the parameters of glibc's mallopt
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next step; with another C library nothing happens.

    A training step takes and frees the same tens of megabytes each time. Handed back to the system
    in between, each page costs a fault when it is touched again, which can take longer than the
    arithmetic.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
