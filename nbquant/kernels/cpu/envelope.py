"""Lower envelope of codeword costs for one h: the codewords that win somewhere, and the thresholds between them."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled()
def envelope(u: float, codebook: Array, price: Array, kept: Array, levels: int, threshold: Array) -> int:
    """Narrow ``kept[:levels]`` to the lower envelope of ½(w − c_j)² + u·price_j.

    For one u = 1/h these parabolas differ by straight lines, so every codeword wins on one interval of w or nowhere.
    A codeword that wins at some h also wins at any larger one: it wins where (c, ½c² + u·price) is on the lower convex
    hull, which holds at u = 0 and up to some u.

    Args:
        u: 1/h.
        codebook: Codewords c, ascending.
        price: Rate cost λℓ of each codeword [loss].
        kept: Candidates, ascending; reduced to those that win somewhere.
        levels: Number of candidates.
        threshold: Output: boundaries between remaining neighbours.

    Returns:
        Number of remaining codewords.
    """
    depth = 0
    for candidate in range(levels):
        j = kept[candidate]
        t = -np.inf
        beaten = False
        while depth > 0:
            top = kept[depth - 1]
            gap = codebook[j] - codebook[top]
            if gap <= 0:
                if price[j] >= price[top]:
                    beaten = True
                    break
                depth -= 1
                continue
            t = 0.5 * codebook[j] + 0.5 * codebook[top] + u * (price[j] - price[top]) / gap
            if depth > 1 and t < threshold[depth - 2]:
                depth -= 1
                continue
            break
        if beaten:
            continue
        if depth > 0:
            threshold[depth - 1] = t
        kept[depth] = j
        depth += 1
    return depth
