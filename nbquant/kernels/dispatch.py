"""Dispatch of kernels by device: numba on the CPU, Triton on CUDA, plain torch elsewhere.

Plain torch, chunk by chunk, also replaces Triton if it is missing, with one warning.
One module, as every kernel has one entry here and nowhere else.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt8
from torch import Tensor

from nbquant.kernels import compiled, cuda, reference
from nbquant.kernels.cpu import assign as cpu_assign
from nbquant.kernels.cpu import feedback as cpu_feedback
from nbquant.kernels.cpu import gaps as cpu_gaps
from nbquant.kernels.cpu import histogram as cpu_histogram
from nbquant.kernels.cpu import losses as cpu_losses
from nbquant.kernels.cpu import path as cpu_path
from nbquant.kernels.cpu import strips as cpu_strips
from nbquant.kernels.cpu import trellis as cpu_trellis
from nbquant.progress import Progress, track

THREADS = os.cpu_count() or 1
PIECE = 1 << 22  # weights per task; a histogram's tables are small in comparison
CUDA_PIECE = 1 << 28  # the same on a CUDA device, where all of it runs at once
SHORT_GAPS = 1 << 12  # gaps counted in a table; longer ones are rare
LEAST_SHIFT = 8  # below it a table of all bins is too large
CHUNK = 1 << 18  # weights converted or given to a kernel at a time
COSTS = 1 << 24  # costs compared at once by the reference
CPU_COSTS = 1 << 18  # the same on the CPU: as many as stay in the cache
MANY_LEVELS = 1 << 16
SPLIT_ABOVE = 1 << 18  # weights below which a second thread costs more than it saves
SPLIT_PATHS_ABOVE = 1 << 14  # the same for trellis paths
LEAST_STRIPS = 6  # of columns, with which vector instructions gain over one column at a time
FLOAT32_STEPS, FLOAT32_COST = float(1 << 15), 1e20  # targets [steps] and costs [bit] up to which float32 suffices

T = TypeVar("T")
Histograms = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="nbquant-kernel")


def _start_anew_in_child() -> None:
    """Make a forked process work without its parent's threads, which do not exist in it.

    Work handed to them would never be done. That holds for our pool and for torch's: OpenMP waits forever for
    the parent's threads. A new pool of our own is made when needed; torch has one thread until
    ``torch.set_num_threads`` is called, as in the workers of a DataLoader.
    """
    _pool.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)


def submit(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run a function in the thread pool, one per core; it must not submit work to these threads and wait for it.

    Functions that process no more than ``PIECE`` weights at a time do not.
    """
    return _pool().submit(work, *arguments)


def in_order(work: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Apply ``work`` to each item and yield results in order; a few run in parallel, further items are taken later."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(submit(work, *item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for left in waiting:
            left.cancel()


def _kernels(weight: Tensor, sensitivity: Tensor | None = None) -> Literal["cpu", "cuda", "reference"]:
    """Choose the kernels for these tensors; warns once if the reference replaces faster ones."""
    if weight.device.type == "cpu":
        return "cpu"
    double = torch.float64 in (weight.dtype, getattr(sensitivity, "dtype", None))
    if weight.device.type != "cuda" or double:  # Triton's kernels compute in float32
        return "reference"
    why_not = cuda.unavailable(weight.device)
    if why_not is None:
        return "cuda"
    compiled.say_once(
        f"Triton's kernels cannot be used on {weight.device} ({why_not}): plain torch replaces them on the same "
        "device. Results are the same up to rounding, but take several times as long and more memory. For the "
        "kernels, install what is missing, mostly Triton (pip install triton) or a C compiler, and restart."
    )
    return "reference"


def _array(tensor: Tensor) -> np.ndarray:
    """One-dimensional contiguous array; bfloat16 and half become float32, float64 stays."""
    tensor = tensor.detach().reshape(-1)
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous().numpy()


def histogram(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    marginal_shift: int,
    joint_shift: int | None,
    progress: Progress = False,
) -> Histograms:
    """See the two histograms of :mod:`nbquant.kernels.reference`; one pass, piece by piece.

    Args:
        weight: Weights w, of any floating-point type, possibly memory-mapped.
        sensitivity: Sensitivities h; None for h = 1.
        marginal_shift: Bits dropped for the bins of w.
        joint_shift: Bits dropped for the bins of the joint grid; None leaves it out.
        progress: See :data:`nbquant.progress.Progress`; counts pieces.

    Returns:
        Keys and sums of the bins, keys and sums of the cells of the grid; numpy arrays.
    """
    kernels = _kernels(weight, sensitivity)
    size = {"cpu": PIECE, "cuda": CUDA_PIECE, "reference": min(PIECE, CHUNK)}[kernels]
    pieces = [slice(begin, begin + size) for begin in range(0, max(len(weight), 1), size)]

    def of_piece(piece: slice) -> Histograms:
        w, h = weight.detach()[piece], None if sensitivity is None else sensitivity.detach()[piece]
        if kernels == "cuda":
            from nbquant.kernels.cuda import histogram as cuda_histogram

            return cuda_histogram.histogram(w, h, marginal_shift, joint_shift)
        if kernels == "cpu" and marginal_shift >= LEAST_SHIFT:
            return cpu_histogram.histogram(_blocks(w, h), marginal_shift, joint_shift)
        marginal = reference.marginal_histogram(w, h, marginal_shift)
        none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.float64)
        joint = none if joint_shift is None or h is None else reference.joint_histogram(w, h, joint_shift)
        bins, sums, cells, joint_sums = (array.cpu().numpy() for array in (*marginal, *joint))
        return bins, sums, cells, joint_sums

    found = [of_piece(pieces[0])] if len(pieces) == 1 else _pool().map(of_piece, pieces)
    parts = list(track(found, "histogram", progress, len(pieces)))
    return *merge([p[:2] for p in parts]), *merge([p[2:] for p in parts])


def gap_counts(weight: Float[Tensor, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`nbquant.kernels.reference.gap_counts`; numpy arrays."""
    if weight.device.type != "cpu":  # Triton has no such kernel
        on_device = reference.gap_counts(weight)
        return on_device[0].cpu().numpy(), on_device[1].cpu().numpy()
    short = np.zeros(SHORT_GAPS, np.int64)
    long = np.zeros(2 + cpu_histogram.CACHE_BLOCK // SHORT_GAPS, np.int64)
    run, rest = 0, [np.zeros(0, np.int64)]
    for block, _ in _blocks(weight, None):
        run, found = cpu_gaps.count_gaps(block, run, short, long)
        rest.append(long[:found].copy())
    gaps, counts = np.unique(np.concatenate(rest), return_counts=True)
    used = np.flatnonzero(short)
    return np.concatenate([used, gaps]), np.concatenate([short[used], counts])


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up histograms, each of ascending keys and their sums."""
    parts = list(parts)
    while len(parts) > 1:
        # Pairwise, so that every bin is copied at most log₂ times.
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [cpu_histogram.merge(*a, *b) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
    return parts[0]


def _blocks(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split arrays into blocks that stay in the cache."""
    ones = np.ones(min(cpu_histogram.CACHE_BLOCK, len(weight)), np.float32)
    for begin in range(0, len(weight), cpu_histogram.CACHE_BLOCK):
        block = slice(begin, begin + cpu_histogram.CACHE_BLOCK)
        w = _array(weight[block])
        yield w, ones[: len(w)] if sensitivity is None else _array(sensitivity[block])


def assign(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: np.ndarray,
    codeword_length: np.ndarray,
    lmbda: float,
    out: Tensor,
    constant: float | None = None,
    skip_zeros: bool = False,
    whole: np.ndarray | None = None,
) -> np.ndarray:
    """See :func:`nbquant.kernels.reference.assign`; ``out`` receives the assignment, the sums (k, 5) are returned.

    With ``whole`` from :func:`whole_bins`, the sums leave out the weights summed there.
    """
    codebook, length = np.ascontiguousarray(codebook, np.float64), np.asarray(codeword_length, np.float64)
    kernels = _kernels(weight, sensitivity)
    if kernels == "cuda":
        from nbquant.kernels.cuda import assign as cuda_assign

        return cuda_assign.assign(weight, sensitivity, codebook, length, lmbda, out, constant, skip_zeros)
    if kernels == "reference":
        values, lengths = torch.from_numpy(codebook).to(weight.device), torch.from_numpy(length).to(weight.device)
        costs = CPU_COSTS if weight.device.type == "cpu" else COSTS
        return _by_reference(
            lambda w, h: reference.assign(w, h, values, lengths, lmbda, constant, skip_zeros),
            weight, sensitivity, out, len(codebook), min(CHUNK, costs // len(codebook) + 1),
        )  # fmt: skip
    if sensitivity is None and constant is None:
        constant = 1.0
    if lmbda > 0 and constant is None:
        by_cell = partial(cpu_assign.by_cell, codebook, lmbda * length, skip_zeros)
        return _sweep(by_cell, weight, sensitivity, out, len(codebook))
    half_h, price = (0.5 * constant, lmbda * length) if lmbda > 0 and constant is not None else (1.0, 0.0 * length)
    by_bin = partial(cpu_assign.by_bin, codebook, price, half_h, skip_zeros, whole)
    return _sweep(by_bin, weight, sensitivity, out, len(codebook))


def whole_bins(
    weight: Float[Tensor, " n"], codebook: np.ndarray, skip_zeros: bool, key: np.ndarray, bins: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Take cluster sums of the nearest codeword from a histogram, to save summing in a pass over the weights.

    Args:
        weight: Some of the weights, which give the device.
        codebook: Codewords c, ascending.
        skip_zeros: Whether weights that are exactly zero are left out.
        key: Keys of bins of w.
        bins: n, Σh, Σhw, Σhw² of the bins.

    Returns:
        A table for :func:`assign`, and the clusters' sums without the bins cut by a boundary; None if the kernels
        of the weights' device sum everything themselves.
    """
    if _kernels(weight) != "cpu":
        return None
    return cpu_assign.whole_bins(np.ascontiguousarray(codebook), skip_zeros, key, bins)


def assign_grid(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    step: float,
    offset: float,
    first: int,
    cells: int,
    out: Tensor,
    skip_zeros: bool = False,
) -> np.ndarray:
    """See :func:`nbquant.kernels.reference.assign_grid`; ``out`` receives the assignment, the sums are returned."""
    kernels = _kernels(weight, sensitivity)
    if kernels == "cuda":
        from nbquant.kernels.cuda import assign as cuda_assign

        return cuda_assign.assign_grid(weight, sensitivity, step, offset, first, cells, out, skip_zeros)
    if kernels == "reference":
        return _by_reference(
            lambda w, h: reference.assign_grid(w, h, step, offset, first, cells, skip_zeros),
            weight, sensitivity, out, cells, CHUNK,
        )  # fmt: skip
    return _sweep(partial(cpu_assign.by_grid, step, offset, first, cells, skip_zeros), weight, sensitivity, out, cells)


def gather(codebook: Float[Tensor, " k"], assignment: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """See :func:`nbquant.kernels.reference.gather`."""
    kernels = _kernels(codebook)
    if kernels == "cuda":
        from nbquant.kernels.cuda import gather as cuda_gather

        return cuda_gather.gather(codebook.detach(), assignment)
    out = torch.empty(assignment.shape, dtype=codebook.dtype, device=codebook.device)
    if kernels == "reference":
        for part in _slices(len(assignment), CHUNK):
            out[part] = reference.gather(codebook.detach(), assignment[part])
        return out
    bits = getattr(torch, f"int{8 * codebook.element_size()}")  # numba has no bfloat16, but moves its bits
    values = torch.cat([codebook.new_zeros(1), codebook.detach()]).view(bits).numpy()
    indices, moved = assignment.numpy(), out.view(bits).numpy()
    _over_threads(lambda part: cpu_assign.gather(values, indices[part], moved[part]), len(assignment))
    return out


def cluster_losses(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: Float[Tensor, " k"],
    assignment: Int[Tensor, " n"],
) -> np.ndarray:
    """See :func:`nbquant.kernels.reference.cluster_losses`; a numpy array."""
    weight, codebook = weight.detach(), codebook.detach().to(weight.device)
    h, assignment = None if sensitivity is None else sensitivity.detach(), assignment.to(weight.device)
    if weight.device.type != "cpu" or _kernels(weight, h) == "reference":  # Triton has no such kernel
        size = CHUNK if weight.device.type == "cpu" else PIECE
        total = torch.zeros(len(codebook) + 1, 3, dtype=torch.float64, device=weight.device)
        for part in _slices(len(weight), size):
            h_part = None if h is None else h[part]
            total += reference.cluster_losses(weight[part], h_part, codebook, assignment[part])
        return total.cpu().numpy()
    values = np.append(codebook.double().numpy(), 0.0)

    def work(share: slice) -> np.ndarray:
        sums = np.zeros((len(values), 3))
        for part in _slices(share.stop - share.start, CHUNK):
            part = slice(share.start + part.start, share.start + part.stop)
            w = _array(weight[part])
            h_part = np.ones_like(w) if h is None else _array(h[part])
            cpu_losses.add_losses(w, h_part, values, assignment[part].numpy(), sums)
        return sums

    parts = _over_threads(work, len(weight), 1 if len(values) > MANY_LEVELS else None)
    return np.sum(parts, axis=0) if parts else np.zeros((len(values), 3))


def viterbi(
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "quantizers neighbours previous levels"],
    neighbour_class: UInt8[Tensor, "rows cols"] | None,
    lmbda: float,
    states: int = 8,
) -> Int32[Tensor, "rows cols"]:
    """See :func:`nbquant.kernels.reference.viterbi`; of 8 states or of one."""
    target, weight, device = target.detach(), weight.detach(), target.device
    if device.type != "cpu" and _kernels(target, weight) == "cuda":
        from nbquant.kernels.cuda import trellis as cuda_trellis

        return cuda_trellis.viterbi(target, weight, step, costs, neighbour_class, lmbda, states)
    target, weight = target.cpu(), weight.cpu()  # the definition would take far longer than the transfer
    rows, cols = target.shape
    price = lmbda * costs.detach().double().cpu().numpy()[: 2 if states > 1 else 1]
    transition = reference.TRANSITION if states > 1 else np.zeros((1, 2), np.uint8)
    t, u = (_array(x.t()).reshape(cols, rows) for x in (target, weight))
    around = (
        np.zeros((cols, rows), np.uint8) if neighbour_class is None else neighbour_class.cpu().t().contiguous().numpy()
    )
    out = np.empty((cols, rows), np.int32)

    if states == cpu_path.STATES and price.shape[2] <= cpu_path.CLASSES:
        classes = np.minimum(np.arange(cpu_path.CLASSES), price.shape[2] - 1)
        price = np.ascontiguousarray(price[:, :, classes])

    def work(part: slice) -> None:
        if states == cpu_path.STATES and price.shape[2] == cpu_path.CLASSES:
            cpu_path.best_paths(t[part], u[part], step, price, around[part], out[part])
            return
        cpu_trellis.viterbi(t[part], u[part], step, price, around[part], transition, out[part])

    shares = THREADS if rows * cols > SPLIT_PATHS_ABOVE else 1
    parts = _slices(cols, -(-cols // shares) or 1)
    list((map if shares == 1 else _pool().map)(work, parts))
    return torch.from_numpy(out).t().contiguous().to(device)


def viterbi_in_strips(
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "2 neighbours 3 levels"],
    left: UInt8[Tensor, "strips rows"],
    lmbda: float,
) -> Int32[Tensor, "rows cols"]:
    """See :func:`nbquant.kernels.reference.viterbi_in_strips`; from a few strips on in float32, if that suffices."""
    if target.device.type != "cpu":
        return reference.column_by_column(viterbi, target, weight, step, costs, left, lmbda).int()
    rows, cols = target.shape
    length, left_of = max(-(-cols // len(left)), 1), left.contiguous().numpy()
    share = step * step / lmbda if lmbda > 0 else math.inf
    out = torch.empty(rows, cols, dtype=torch.int32)
    lanes = 1
    if (
        len(left) >= LEAST_STRIPS
        and costs.shape[1] == cpu_path.CLASSES
        and target.numel()
        and largest(target) < FLOAT32_STEPS * step
        and float(weight.max()) * share < FLOAT32_COST
    ):
        lanes = cpu_strips.LANES
        bits = costs.float().contiguous().numpy()
    price = lmbda * costs.double().contiguous().numpy()

    def work(first: int) -> None:
        part = slice(first * length, min((first + lanes) * length, cols))
        t, u = (x[:, part].detach().float().t().contiguous().numpy() for x in (target, weight))
        found, near = np.empty(t.shape, np.int32), left_of[first : first + lanes]
        if lanes == 1:
            cpu_path.best_paths_in_strips(t, u, step, price, near, length, found)
        else:
            cpu_strips.best_paths_in_strips(t, u, step, share, bits, near, length, found)
        out[:, part] = torch.from_numpy(found).t()

    starts = range(0, -(-cols // length), lanes)
    is_split = THREADS > 1 and len(starts) > 1 and rows * cols > SPLIT_PATHS_ABOVE
    list((_pool().map if is_split else map)(work, starts))
    return out


def largest(values: Float[Tensor, "..."]) -> float:
    """Find the largest magnitude, without a copy; 0 of none."""
    if not values.numel():
        return 0.0
    least, most = values.detach().aminmax()
    return max(-float(least), float(most))


def path_sums(
    target: Float[Tensor, "rows cols"], weight: Float[Tensor, "rows cols"], integers: Int32[Tensor, "rows cols"]
) -> tuple[float, float, float]:
    """See :func:`nbquant.kernels.reference.path_sums`."""
    if target.device.type != "cpu":
        return reference.path_sums(target, weight, integers)
    arrays = _array(target), _array(weight), integers.reshape(-1).numpy()
    n = len(arrays[0])

    def work(part: slice) -> tuple[float, float, float]:
        found: tuple[float, float, float] = cpu_path.path_sums(*(x[part] for x in arrays))
        return found

    parts = _slices(n, PIECE)
    sums = list((_pool().map if THREADS > 1 and len(parts) > 1 else map)(work, parts))
    a, b, c = (math.fsum(each) for each in zip(*sums, strict=True)) if sums else (0.0, 0.0, 0.0)
    return a, b, c


def compensate(
    target: Float[Tensor, "groups n rows"],
    carried: Float[Tensor, "groups n rows"],
    coupling: Float[Tensor, "groups n n"],
    curvature: Float[Tensor, "groups n"],
    outputs: Float[Tensor, "groups rows"],
    off: Float[Tensor, "groups n rows"],
    step: float,
    price: np.ndarray,
    columns: np.ndarray,
    restart: int,
    fixed: np.ndarray,
    integers: np.ndarray,
) -> None:
    """See :func:`nbquant.kernels.reference.compensate`; ``carried``, ``off`` and ``integers`` are modified."""
    arrays: list[Any] = [x.contiguous().numpy() for x in (target, carried, coupling, curvature, outputs, off)]
    bits = np.ascontiguousarray(price, np.float64)
    kernel: Callable[..., None] = cpu_feedback.compensate
    kernel(*arrays, step, bits, columns, restart, fixed, integers)


def compensate_along(
    target: Float[Tensor, "n cols"],
    carried: Float[Tensor, "n cols"],
    coupling: Float[Tensor, "n n"],
    outputs: Float[Tensor, " cols"],
    off: Float[Tensor, "n cols"],
    step: float,
    price: np.ndarray,
    first: int,
    restart: int,
    state: np.ndarray,
    above: np.ndarray,
    fixed: np.ndarray,
    integers: np.ndarray,
) -> None:
    """See :func:`nbquant.kernels.reference.compensate_along`; ``off`` and all after ``restart`` are modified."""
    arrays: list[Any] = [x.contiguous().numpy() for x in (target, carried, coupling, outputs, off)]
    bits = np.ascontiguousarray(price, np.float64)
    transition = reference.TRANSITION
    kernel: Callable[..., None] = cpu_feedback.compensate_along
    kernel(*arrays, step, bits, first, restart, transition, state, above, fixed, integers)


def count_levels(integers: Int[np.ndarray, "rows cols"], restart: int, most: int) -> np.ndarray:
    """See :func:`nbquant.kernels.reference.count_levels`."""
    counts = np.zeros((2, cpu_path.CLASSES, cpu_path.CLASSES, most + 1), np.int64)
    cpu_feedback.count_levels(np.asarray(integers, np.int32), restart, reference.TRANSITION, counts)
    return counts


def _over_threads(work: Callable[[slice], T], n: int, threads: int | None = None) -> list[T]:
    """Run ``work`` on one share of n weights per core."""
    shares = (threads or THREADS) if n > SPLIT_ABOVE else 1
    parts = _slices(n, -(-n // shares) or 1)
    return [work(part) for part in parts] if shares == 1 else list(_pool().map(work, parts))


def _slices(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _sweep(
    kernel_of: Callable[[], Callable[..., None]],
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    out: Tensor,
    levels: int,
) -> np.ndarray:
    """Sums of a kernel over all weights, with tables per thread; other dtypes are converted in chunks."""
    dtype = torch.float64 if torch.float64 in (weight.dtype, getattr(sensitivity, "dtype", None)) else torch.float32
    weight, out = weight.detach(), out.detach()
    assert weight.shape == out.shape, f"{tuple(out.shape)} indices for {tuple(weight.shape)} weights"
    ones = torch.ones(CHUNK if sensitivity is None else 0, dtype=dtype)

    def work(share: slice) -> np.ndarray:
        kernel, sums = kernel_of(), np.zeros((levels + 1, 5))  # the last row is for skipped zeros
        for part in _slices(share.stop - share.start, CHUNK):
            part = slice(share.start + part.start, share.start + part.stop)
            w = weight[part].to(dtype).contiguous()
            h = ones[: len(w)] if sensitivity is None else sensitivity.detach()[part].to(dtype).contiguous()
            kernel(w.numpy(), _bits(w), h.numpy(), _bits(h), out[part].numpy(), sums)
        return sums[:levels]

    # With so many clusters that their sums are large themselves, one thread.
    parts = _over_threads(work, len(weight), 1 if levels > MANY_LEVELS else None)
    return np.sum(parts, axis=0) if parts else np.zeros((levels, 5))


def _bits(values: Float[Tensor, " n"]) -> np.ndarray:
    return values.float().numpy().view(np.uint32)


def _by_reference(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    out: Tensor,
    levels: int,
    size: int,
) -> np.ndarray:
    """Sums of the reference over all weights, ``size`` at a time."""
    weight, out = weight.detach(), out.detach()
    sensitivity = None if sensitivity is None else sensitivity.detach()
    total = torch.zeros(levels, 5, dtype=torch.float64, device=weight.device)
    for part in _slices(len(weight), size):
        found, sums = kernel(weight[part], None if sensitivity is None else sensitivity[part])
        out[part] = found.to(out.dtype)
        total += sums
    return total.cpu().numpy()
