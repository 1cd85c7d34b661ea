"""How much memory this process holds, and giving back what it has freed."""

import contextlib
import ctypes
import gc
from pathlib import Path

#: Of mallopt(3): from which size on, in bytes, memory is mapped by itself, and given back as soon as it is freed.
_M_MMAP_THRESHOLD = -3
_THRESHOLD = 1 << 20


def return_large_blocks() -> None:
    """From now on, give what is larger than a MiB back to the system as soon as it is freed.

    The C library raises that limit to 32 MiB by itself, and matrices of a few MiB leave holes in its heap.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)


def release() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_peak() -> None:
    """Have the kernel measure the peak anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """The most memory that this process held since `forget_peak`, in bytes; files that it has mapped are in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
