"""Compile the kernels that the explorer starts with, in two processes: ``python -m nbquant.kernels.precompile``.

Numba compiles one function at a time in a process, and caches it on disk. A second process therefore takes the same
list from its other end, until both meet. Neither needs torch.
"""

import atexit
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from numba import types as t

from nbquant.kernels.cpu import assign, blahut, code_table, ecsq, envelope, gaps, histogram, huffman, kmeans, losses
from nbquant.progress import Progress, track

_F4, _F8, _F8_2, _F8_3 = t.float32[::1], t.float64[::1], t.float64[:, ::1], t.float64[:, :, ::1]
_I1, _I4, _I4_2, _I8, _I8_2, _U4 = (
    t.int8[::1],
    t.int32[::1],
    t.int32[:, ::1],
    t.int64[::1],
    t.int64[:, ::1],
    t.uint32[::1],
)
_CONSTANT = t.Array(t.int64, 1, "C", readonly=True)
_KEY, _N, _X = t.uint32, t.int64, t.float64

Kernels = tuple[tuple[Any, tuple[Any, ...]], ...]

HANDOVER = 1e-3  # s in which a thread that waits for numba's lock gets it, to compile what it needs

PICTURE: Kernels = (
    (gaps.count_gaps, (_F4, _N, _I8, _I8)),
    (histogram._magnitudes, (_F4, _U4, _KEY, _KEY)),
    (histogram._add_marginal, (_F4, _U4, _F4, _KEY, _KEY, _F8_2)),
    (histogram._occupied, (_F8_2, _N, _N, _N)),
    (histogram._mark_rows, (_U4, t.boolean[::1])),
    (histogram._add_joint, (_F4, _U4, _F4, _U4, _KEY, _KEY, _U4, _F8_3)),
    (histogram.merge, (_I8, _F8_2, _I8, _F8_2)),
    (histogram.add_at, (_F8_2, _I8, _F8_2)),
    (kmeans.kmeans_table, (_F8_2, _N)),
    (kmeans.edges_of, (_I4_2, _N)),
    (kmeans.lloyd, (_F8, _F8_2, _I8, _N, _N)),
    (code_table.ranks, (_I8, _N)),
    (huffman.code_lengths, (_I8, _N)),
    (ecsq.ecsq_intervals, (_F8_2, _X)),
    (ecsq.ecsq_sums, (_I8, _F8, _F8, _F8_2, _F8, _F8)),
    (ecsq.ecsq_iterate, (_I8, _F8, _F8, _F8_2, _F8, _F8, _X, _X, _N)),
)
"""Kernels of the histograms and curves of float32 weights, with their arguments, as they are needed."""

AFTERWARDS: Kernels = (
    (envelope.envelope, (_X, _F8, _F8, _I4, _N, _F8)),
    (assign.assign_by_bin, (_F4, _U4, _F4, _X, _F8, _F8, _I4, _F8, _F8_2, _I4, t.boolean, t.boolean, _I1, _F8_2)),
    (huffman.count_symbols, (_I1, _I8_2)),
    (losses.add_losses, (_F4, _F4, _F8, _I1, _F8_2)),
    (huffman.canonical_codewords, (_CONSTANT,)),
    (assign.gather, (_I4, _I1, _I4)),
    (blahut.partition_moment, (_F8, _F8, _F8, _F8)),
    (blahut.ceiling, (_F8, _F8_2, _F8_2, _F8_2, _F8_2, _F8_2, _F8, _F8, _F8)),
)
"""Kernels of the exact pass and of the bound."""


def precompile(progress: Progress = True) -> None:
    """Compile what the first picture needs, or read it from numba's cache; the rest follows in another process.

    Args:
        progress: See :data:`nbquant.progress.Progress`; counts kernels.
    """
    helped = (os.cpu_count() or 1) == 1
    for kernel, arguments in track(PICTURE, "Compiling kernels", progress):
        time.sleep(HANDOVER)
        if _compile(kernel, arguments) and not helped:
            helped = True
            with suppress(OSError):
                helper = subprocess.Popen(
                    [sys.executable, "-m", __name__, "reverse"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                atexit.register(_end, helper)


def _compile(kernel: Any, arguments: tuple[Any, ...]) -> bool:
    """Compile a kernel; whether that was work whose result is kept."""
    before = sum(kernel.stats.cache_misses.values())
    kernel.compile(arguments)
    return kernel.stats.cache_path is not None and sum(kernel.stats.cache_misses.values()) > before


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()


if __name__ == "__main__":
    everything = (*PICTURE, *AFTERWARDS)
    if sys.argv[1:] == ["reverse"]:
        everything = (*reversed(PICTURE), *reversed(AFTERWARDS))
    for kernel, arguments in track(everything, "Compiling kernels", len(sys.argv) == 1):
        _compile(kernel, arguments)
