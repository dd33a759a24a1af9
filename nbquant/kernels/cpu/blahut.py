"""Kernels of the Blahut-Arimoto bound: the partition function, and an upper bound of the dual constraint."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

FAR = 90.0  # a·u² beyond which a kernel counts as zero: e^(−45)


@compiled(inline=True)
def _growth(x: float) -> float:
    """Upper bound of (e^x − 1 − x)/x²: Σ x^k/(k+2)! ≤ ½ Σ (x/3)^k."""
    if x < 1:
        return 0.5 / (1 - x / 3)
    return (np.exp(x) - 1 - x) / (x * x)


@compiled()
def _place(node: Array, value: float) -> int:
    """Number of nodes below a value; numpy's takes longer to compile."""
    low, high = 0, len(node)
    while low < high:
        half = (low + high) >> 1
        if node[half] < value:
            low = half + 1
        else:
            high = half
    return low


@compiled()
def partition_moment(precision: Array, position: Array, node: Array, share: Array) -> tuple[Array, Array]:
    """Compute Z of each symbol, Σ_c q(c) exp(−½a(w − c)²), and Σ_c q(c) (w − c)² exp(−½a(w − c)²).

    Args:
        precision: a of each symbol, t·h.
        position: w of each symbol.
        node: Reproduction values c, ascending.
        share: q of each.
    """
    z, square = np.zeros(len(position)), np.zeros(len(position))
    for i in range(len(position)):
        a, w = precision[i], position[i]
        first, last = 0, len(node)
        if a > 0:
            reach = np.sqrt(FAR / a)
            first, last = _place(node, w - reach), _place(node, w + reach)
        for j in range(first, last):
            u = w - node[j]
            part = share[j] * np.exp(-0.5 * a * u * u)
            z[i] += part
            square[i] += part * u * u
    return z, square


@compiled()
def ceiling(
    node: Array,
    mu: Array,
    precision: Array,
    weight: Array,
    position: Array,
    between: Array,
    within: Array,
    drift: Array,
    reach: Array,
) -> Array:
    """Bound the dual constraint from above, over all c of each interval.

    F(c) = Σ_b Σ_i μ_bi E_bi[exp(−½a_bi((W_bi − c)² + 2(w − W_bi)(W_bi − c)))], i = 0, 1 the two ends of h of a cell b.

    With u = W − c and e = exp(−½au²) its parts are

    * f = Σ μ P e, smooth in c. On an interval of length g it is at most max of its ends + g²/8 · max(−f''), and −f''
      at most that at its ends + g²/8 · max f'''', where each kernel's f'''' is at most 4a² exp(−¼au²) for the least
      u of the interval. Kernels narrower than the intervals count with their largest value there.
    * second order: exp(x) ≤ 1 + x + x²ψ(x_max) for x = −au(w − W), with ψ increasing; at its largest on the interval.
    * first order: unknown is how far the members at one end lie to one side, ±y at one end and ∓y at the other:
      |y| t |μ0 e0 u0 − μ1 e1 u1|, at most its value at the ends + g²/8 · Σ_i μ_i 2.1 √a exp(−¼au²).

    A kernel further away than au² = FAR counts everywhere with its largest value there.

    Args:
        node: Ends of the intervals, ascending. Beyond them all kernels decrease.
        mu: μ of each cell's two ends.
        precision: a = t·h of the two ends.
        weight: P, share of the weights.
        position: W.
        between: P·E(w − W)² of each end, the known part.
        within: t·Σ h(w − W)² of each cell over both ends, the unknown part.
        drift: Largest t·|y| of each cell.
        reach: Largest |w − W|.

    Returns:
        One bound per interval.
    """
    m = len(node)
    f, curve = np.zeros(m), np.zeros(m)
    fourth, extra = np.zeros(m), np.zeros(m)
    beyond = 0.0
    value, u, top = np.zeros(2), np.zeros(2), np.zeros(2)
    for b in range(len(mu)):
        a_least = min(precision[b, 0], precision[b, 1])
        span = np.sqrt(FAR / a_least) if a_least > 0 else np.inf
        if a_least > 0:
            far = max(span, reach[b])
            for i in range(2):
                beyond += mu[b, i] * weight[b, i] * np.exp(-0.5 * precision[b, i] * far * (far - 2 * reach[b]))
        low, high = min(position[b, 0], position[b, 1]), max(position[b, 0], position[b, 1])
        first = max(_place(node, low - span) - 1, 0)
        last = min(_place(node, high + span), m - 1)
        home = min(max(_place(node, position[b, 0]) - 1, 0), m - 2)
        g_home = node[home + 1] - node[home]
        narrow = max(precision[b, 0], precision[b, 1]) * g_home * g_home > 1
        spread = within[b] > 0 or between[b, 0] > 0 or between[b, 1] > 0
        before0, before1 = 0.0, 0.0
        for j in range(first, last + 1):
            for i in range(2):
                a = precision[b, i]
                u[i] = position[b, i] - node[j]
                y = a * u[i] * u[i]
                value[i] = np.exp(-0.5 * y)
                if not narrow:
                    scaled = mu[b, i] * weight[b, i] * value[i]
                    f[j] += scaled
                    curve[j] += scaled * a * (1 - y)
            if j > first:
                g = node[j] - node[j - 1]
                worst, lag = 0.0, 0.0
                for i in range(2):
                    a = precision[b, i]
                    was = position[b, i] - node[j - 1]
                    top[i] = max(before0 if i == 0 else before1, value[i])
                    if was >= 0 >= u[i]:
                        top[i] = 1.0
                    if narrow:
                        extra[j - 1] += mu[b, i] * weight[b, i] * top[i]
                    else:
                        fourth[j - 1] += mu[b, i] * weight[b, i] * 4 * a * a * np.sqrt(top[i])
                    if spread:
                        far = max(abs(was), abs(u[i]))
                        rise = mu[b, i] * top[i] * a * far * far * _growth(a * far * reach[b])
                        extra[j - 1] += rise * a * between[b, i]
                        worst = max(worst, rise)
                        lag += mu[b, i] * 2.1 * np.sqrt(a * top[i])
                if spread:
                    extra[j - 1] += worst * within[b]
                    now = abs(mu[b, 0] * value[0] * u[0] - mu[b, 1] * value[1] * u[1])
                    was0, was1 = position[b, 0] - node[j - 1], position[b, 1] - node[j - 1]
                    then = abs(mu[b, 0] * before0 * was0 - mu[b, 1] * before1 * was1)
                    extra[j - 1] += drift[b] * (max(now, then) + 0.125 * g * g * lag)
            before0, before1 = value[0], value[1]
    for j in range(m - 1):
        g = 0.125 * (node[j + 1] - node[j]) ** 2
        bend = max(max(curve[j], curve[j + 1]) + g * fourth[j], 0.0)
        extra[j] += beyond + max(f[j], f[j + 1]) + g * bend
    return extra[: m - 1]
