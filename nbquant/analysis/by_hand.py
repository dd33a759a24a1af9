"""Operating points with one cluster centre placed by hand."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from nbquant.analysis.operating_point import OperatingPoint, point_of_clusters
from nbquant.analysis.statistics import Statistics
from nbquant.kernels.cpu.ecsq import ecsq_sums
from nbquant.quantization import methods
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.optimal_ecsq import ideal_length
from nbquant.quantization.parameter import LMBDA
from nbquant.quantization.quantizer import ScalarQuantizer


def with_centre_at(
    point: OperatingPoint, statistics: Statistics, group: str, index: int, value: float
) -> OperatingPoint:
    """Move one centre of a codebook and reassign the weights.

    The other centres stay. Each weight goes to the nearest centre or, with ECSQ, to the one of least
    ½ h (w − c)² + λ ℓ, with the ideal lengths ℓ of the clusters before the move. Counts, code and ledger are updated. A
    cluster that loses all its weights is dropped.

    Args:
        point: The operating point to change.
        statistics: Statistics of its selection.
        group: Group of the centre.
        index: Index of the centre, from 0.
        value: New value of the centre [weight].

    Returns:
        A point with the same quantizer, although its fit would not give this codebook.

    Raises:
        ValueError: No such group or centre, or a value that is not finite.
    """
    _check(point.clusters, group, index, value)
    quantizer, before = point.quantizer, point.clusters[group]
    if methods.of(quantizer).curve is None:
        raise ValueError(f"centres of {quantizer.method} lie on a lattice and cannot be moved: choose another method")
    scalar: ScalarQuantizer = quantizer  # type: ignore[assignment]  # as it is on a curve
    cells = statistics.cells(scalar.weighted, scalar.needs_rows, scalar.per_layer)[group]
    codebook = before.codebook.astype(np.float64)
    codebook[index] = value
    by_rate = quantizer.parameter is LMBDA
    price = point.parameter * ideal_length(before.counts) if by_rate else np.zeros(len(codebook))
    mass = cells.row_sensitivity if scalar.needs_rows else np.ones(1)
    found = _assigned(cells, mass, *_distinct(codebook, price))
    return point_of_clusters(quantizer, {**point.clusters, group: found}, statistics)


def _check(clusters: Mapping[str, Clusters], group: str, index: int, value: float) -> None:
    if group not in clusters:
        raise ValueError(f"group must be one of {', '.join(map(repr, clusters))}, but is {group!r}")
    levels = len(clusters[group].codebook)
    if not 0 <= index < levels:
        raise ValueError(f"index must be 0 to {levels - 1}, but is {index}")
    if not np.isfinite(value):
        raise ValueError(f"a centre must be finite, but got {value!r}")


def _distinct(
    codebook: Float[np.ndarray, " k"], price: Float[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " j"], Float[np.ndarray, " j"]]:
    """Distinct codewords, ascending; of equal ones the cheapest is kept, as boundaries need distinct neighbours."""
    order = np.lexsort([price, codebook])
    kept = order[np.diff(codebook[order], prepend=-np.inf) > 0]
    return codebook[kept], price[kept]


def _assigned(
    cells: Cells, mass: Float[np.ndarray, " r"], codebook: Float[np.ndarray, " k"], price: Float[np.ndarray, " k"]
) -> Clusters:
    """Clusters of least cost, with ``mass`` in place of h in each row of cells; their loss uses the true h."""
    true = ecsq_sums(cells.row_start, mass, cells.position, cells.true_prefix, codebook, price)
    threshold = None
    if len(mass) == 1:
        c, paid = codebook[true[:, 0] > 0], price[true[:, 0] > 0]
        threshold = 0.5 * (c[:-1] + c[1:]) + np.diff(paid) / (mass[0] * np.diff(c))
    return Clusters.of_sums(codebook, true, threshold)
