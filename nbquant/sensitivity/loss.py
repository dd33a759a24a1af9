"""Derivatives of a batch's loss with respect to the network's outputs.

Nothing here assumes which targets belong to which sample: all derivatives are of the loss of the whole batch.
Losses that end in one of torch's have closed forms (:mod:`nbquant.losses`); any other loss is differentiated twice.
One module, as draws, columns, gradient and diagonal of a loss are four views of one factor of its Hessian.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.losses import Loss, Recorded, Term, record
from nbquant.nested import map_tensors
from nbquant.sensitivity.places import ranks, sample_of_places

Block = tuple[float, list[Tensor | None]]
"""A sign and v vectors in output space, [v, *z.shape] for each output z (None: zeros): h += sign · Σ_v (Jᵀ vector)²."""

MAX_COLUMNS = 20_000
MAX_OUTPUTS = 2_048  # per sample, for a loss without closed form: its K × K Hessian is formed
_BLOCK = 1 << 24  # entries of one block of columns


@dataclass(frozen=True, eq=False)
class OutputLoss:
    """The loss L of a batch as a function of the network's outputs z.

    Attributes:
        z: The outputs to differentiate by: leaves, in float32 or wider.
        axes: Sample dimension of each output; None if samples cannot be distinguished.
        recorded: L, and its terms with closed forms.
        samples: Number of samples.
    """

    z: tuple[Float[Tensor, "..."], ...]
    axes: tuple[int, ...] | None
    recorded: Recorded
    samples: int

    @property
    def value(self) -> Tensor:
        """L, the mean loss of the batch."""
        return self.recorded.value

    @cached_property
    def mass(self) -> float:
        """Number of terms that the batch averages; see :meth:`nbquant.losses.Recorded.mass`."""
        return self.recorded.mass(self.samples)

    @cached_property
    def terms(self) -> tuple[tuple[Term, Tensor], ...]:
        """Terms with closed forms, with ∂L/∂term; empty unless they hold all of L's curvature."""
        terms = self.recorded.terms
        if len(terms) == 1 and terms[0][0].value is self.value:
            return terms
        if not terms:
            return ()
        own = sum((term.value * slope).sum() for term, slope in terms)
        assert isinstance(own, Tensor)
        for a, b in zip(self._slopes(self.value), self._slopes(own), strict=True):
            if (a - b).abs().amax() > 1e-4 * a.abs().amax():
                return ()
        return terms

    def _slopes(self, value: Tensor, create_graph: bool = False) -> list[Tensor]:
        if not value.requires_grad:
            return [torch.zeros_like(z) for z in self.z]
        return list(
            torch.autograd.grad(
                value,
                self.z,
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )

    @cached_property
    def is_elsewhere(self) -> bool:
        """Whether L depends on none of the outputs: then the model itself may have computed it."""
        if not isinstance(self.value, Tensor) or self.value.ndim:
            return False
        if not self.value.requires_grad or not self.z:
            return True
        slopes = torch.autograd.grad(self.value, self.z, retain_graph=True, allow_unused=True)
        return all(slope is None for slope in slopes)

    @cached_property
    def is_separable(self) -> bool:
        """Whether L's curvature is block-diagonal over samples; True if samples are not distinguished."""
        if self.axes is None or self.samples < 2:
            return True
        if self.terms:
            return all(self._sample_of(term) is not None for term, _ in self.terms)
        slopes = self._slopes(self.value, create_graph=True)
        if not any(slope.requires_grad for slope in slopes):
            return True
        flat = self._flattened(slopes)
        generator = torch.Generator(flat.device).manual_seed(0)
        signs, u = _signs((len(flat), 1), flat, generator), _signs((1, flat.shape[1]), flat, generator)
        alone, together = (self._product(flat, v) for v in (u.expand_as(flat), signs * u))
        return bool((together - signs * alone).abs().amax() <= 1e-3 * alone.abs().amax())

    def _product(self, slopes: Float[Tensor, "groups k"], v: Float[Tensor, "groups k"]) -> Float[Tensor, "groups k"]:
        """∇²L v."""
        found = torch.autograd.grad(
            (slopes * v).sum(), self.z, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return self._flattened(found)

    def gradient(self) -> list[Float[Tensor, "..."]]:
        """Compute ∂L/∂z for each output."""
        return [slope.detach() for slope in self._slopes(self.value)]

    def draws(self, count: int, generator: torch.Generator) -> Iterator[Block]:
        """Draw random vectors v with Σ sign · E[v vᵀ] = mass · ∇²L, independent between samples.

        Random signs r times a factor S of the Hessian. For a softmax diag(p) − p pᵀ = S Sᵀ with
        S = diag(√p)(I − √p √pᵀ), so v = √p ∘ r − p (√pᵀ r): as unbiased as p − y with a label y drawn from the
        network's own prediction p, and far less noisy for confident predictions, as no draw waits for a rare label.
        """
        if self.terms:
            for _ in range(count):
                for sign in (1.0, -1.0):
                    found = [_drawn(term, self._scaled(term, slope, sign), generator) for term, slope in self.terms]
                    if any(v is not None for v in found):
                        pulled = self._pulled([None if v is None else v / math.sqrt(count) for v in found])
                        yield sign, [None if v is None else v[None] for v in pulled]
            return
        for sign, factor in self._factors:  # [v, groups, k]
            for _ in range(count):
                signs = _signs((len(factor), factor.shape[1]), factor, generator)
                vector = torch.einsum("vb,vbk->bk", signs, factor) / math.sqrt(count)
                yield sign, [v[None] for v in self._unflattened(vector)]

    def columns(self) -> Iterator[Block]:
        """Compute columns of S with S Sᵀ = mass · ∇²L, one per sample at a time; two sets where L is not convex in z.

        For a softmax, diag(p) − p pᵀ = R Rᵀ with R = diag(√p)(I − √p √pᵀ). The Householder reflection Q that takes √p
        to an axis turns R into R Q, whose first column is zero: one backward pass fewer than there are classes.

        Raises:
            ValueError: More columns than reasonable backward passes.
        """
        _check_columns(self.column_count)
        if self.terms:
            for i, (term, slope) in enumerate(self.terms):
                for sign in (1.0, -1.0):
                    for block in self._columns_of(term, self._scaled(term, slope, sign), self._slots[i]):
                        empty: list[Tensor | None] = [None] * len(self.terms)
                        if self._is_output(term) and len(self.terms) == 1:
                            yield sign, list(self._placed(block))
                            continue
                        for vector in block:
                            given = [*empty[:i], vector, *empty[i + 1 :]]
                            yield sign, [None if v is None else v[None] for v in self._pulled(given)]
            return
        for sign, factor in self._factors:
            for start, stop in _ranges(len(factor), factor[0].numel()):
                parts = [self._unflattened(vector) for vector in factor[start:stop]]
                yield sign, [torch.stack(part) for part in zip(*parts, strict=True)]

    @property
    def column_count(self) -> int:
        """Number of backward passes that :meth:`columns` takes; an upper bound for a loss without closed form."""
        if not self.terms:
            return self._entries
        counts = zip(self.terms, self._slots, strict=True)
        return sum(
            (int(slots.max()) + 1 if len(slots) else 0) * (_classes(term) - 1 or 1) for (term, _), slots in counts
        )

    def diagonal(self) -> list[Float[Tensor, "..."]]:
        """Compute mass · ∂²L/∂z² for each output."""
        total = [torch.zeros_like(z) for z in self.z]
        if len(self.terms) == 1 and self._is_output(self.terms[0][0]):
            ((term, slope),) = self.terms
            for sign in (1.0, -1.0):
                scale = self._scaled(term, slope, sign)
                if term.mass is not None:
                    p = term.z.detach().softmax(term.dim)
                    found = p * (1 - p) * scale.unsqueeze(term.dim)
                else:
                    found = scale
                for part, v in zip(total, self._placed(found[None]), strict=True):
                    part += 0 if v is None else sign * v[0]
            return total
        for sign, factor in self._factors:
            for part, v in zip(total, self._unflattened(factor.square().sum(0)), strict=True):
                part += sign * v
        return total

    # Closed forms

    def _is_output(self, term: Term) -> bool:
        return any(term.z is z for z in self.z)

    def _placed(self, v: Tensor) -> list[Tensor | None]:
        """Vectors of the only term, as vectors of the outputs."""
        return [v if z is self.terms[0][0].z else None for z in self.z]

    def _scaled(self, term: Term, slope: Tensor, sign: float) -> Tensor:
        """Curvature of each place where it has this sign [mass · loss/z²]: the softmax's mass, or the entry's own."""
        slope = term.slope_of_places(slope) * self.mass
        if term.mass is not None:
            return (sign * slope * term.mass).clamp(min=0).expand(term.mass.shape)
        assert term.again is not None
        with torch.enable_grad():
            leaf = term.z.detach().requires_grad_()
            (first,) = torch.autograd.grad(term.again(leaf).sum(), leaf, create_graph=True)
            second = torch.zeros_like(leaf)
            if first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), leaf, materialize_grads=True, allow_unused=True)
        return (sign * slope * second.detach()).clamp(min=0)

    def _pulled(self, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Vectors of the terms, as vectors of the outputs."""
        if len(self.z) == len(self.terms) == 1 and self._is_output(self.terms[0][0]):
            return list(vectors)
        used = [(term.z, v) for (term, _), v in zip(self.terms, vectors, strict=True) if v is not None]
        return list(
            torch.autograd.grad(
                [z for z, _ in used],
                self.z,
                [v.to(z.dtype) for z, v in used],
                retain_graph=True,
                allow_unused=True,
            )
        )

    @cached_property
    def _slots(self) -> list[Int64[Tensor, "..."]]:
        """For each term, the index of each place (or entry) within its sample; −1 for places that do not count."""
        return [ranks(self._sample_of(term), self._counting(term, slope)) for term, slope in self.terms]

    def _counting(self, term: Term, slope: Tensor) -> Tensor:
        if term.mass is None:
            return torch.ones(term.z.shape, dtype=torch.bool, device=term.z.device)
        return (term.mass != 0) & (slope != 0)

    def _sample_of(self, term: Term) -> Int64[Tensor, "..."] | None:
        return None if self.axes is None else sample_of_places(term, self.z, self.axes, self.samples)

    def _columns_of(self, term: Term, scale: Tensor, slots: Tensor) -> Iterator[Float[Tensor, "v ..."]]:
        if not scale.any():
            return
        root = scale.sqrt()
        for slot in range(int(slots.max()) + 1):
            here = slots == slot
            if term.mass is None:
                yield (root * here)[None]
                continue
            p = term.z.detach().softmax(term.dim).movedim(term.dim, -1)[here].sqrt()  # [places, classes]
            for start, stop in _ranges(p.shape[-1] - 1, term.z.numel()):
                index = torch.arange(start + 1, stop + 1, device=p.device)
                factor = (p[:, index] / (1 + p[:, :1])).T  # [v, places]
                columns = -(p * p) * factor[:, :, None]
                columns[:, :, 0] -= p[:, 0] * factor
                columns[torch.arange(len(index), device=p.device), :, index] += p[:, index].T
                block = term.z.new_zeros(len(index), *scale.shape, p.shape[-1])
                block[:, here] = columns * root[here][:, None]
                yield block.movedim(-1, term.dim + 1)

    # Any other loss

    @property
    def _entries(self) -> int:
        """Entries of the outputs per sample, or of all if samples cannot be distinguished."""
        return sum(z.numel() for z in self.z) // (self.samples if self.axes is not None else 1)

    @cached_property
    def _factors(self) -> list[tuple[float, Float[Tensor, "v groups k"]]]:
        """√mass times columns √|λ|·q of the positive, then of the negative eigenvalues of the Hessian's blocks."""
        if self._entries > MAX_OUTPUTS:
            raise ValueError(
                f"a loss without closed form allows at most {MAX_OUTPUTS} outputs per sample here, but there are "
                f"{self._entries}: end it in torch's cross_entropy, mse_loss or binary_cross_entropy_with_logits, or "
                'use method="empirical_fisher".'
            )
        slopes = self._slopes(self.value, create_graph=True)
        curved = [(z, s) for z, s in zip(self.z, slopes, strict=True) if s.requires_grad]
        if not curved:
            return []
        flat = self._flattened(slopes)  # [groups, k]
        rows = []
        for k in range(flat.shape[1]):
            unit = torch.zeros_like(flat)
            unit[:, k] = 1
            rows.append(self._product(flat, unit))
        hessian = torch.stack(rows, 1)  # [groups, k, k]
        values, vectors = torch.linalg.eigh((hessian + hessian.mT) * (0.5 * self.mass))
        floor = values.abs().amax() * hessian.shape[-1] * torch.finfo(values.dtype).eps
        found = []
        for sign in (1.0, -1.0):
            size = (sign * values).where(sign * values > floor, values.new_zeros(()))
            used = size.any(0)
            if used.any():
                found.append((sign, (vectors * size.sqrt().unsqueeze(1))[:, :, used].permute(2, 0, 1)))
        return found

    def _flattened(self, parts: Sequence[Tensor]) -> Float[Tensor, "groups k"]:
        if self.axes is None:
            return torch.cat([part.reshape(1, -1) for part in parts], 1)
        rows = (part.movedim(axis, 0).flatten(1) for part, axis in zip(parts, self.axes, strict=True))
        return torch.cat([row if row.ndim > 1 else row[:, None] for row in rows], 1)

    def _unflattened(self, flat: Float[Tensor, "groups k"]) -> list[Tensor]:
        out, start = [], 0
        for i, z in enumerate(self.z):
            count = z.numel() // len(flat)
            part, start = flat[:, start : start + count], start + count
            if self.axes is None:
                out.append(part.reshape(z.shape))
            else:
                out.append(part.reshape(z.movedim(self.axes[i], 0).shape).movedim(0, self.axes[i]))
        return out


def output_loss(
    loss: Loss, output: object, outputs: Sequence[Tensor], axes: tuple[int, ...] | None, target: object, samples: int
) -> OutputLoss:
    """Compute the loss of a batch as a function of some of the tensors of its output.

    Args:
        loss: The loss.
        output: The model's unchanged output.
        outputs: Its tensors to differentiate by.
        axes: Sample dimension of each; None if samples cannot be distinguished.
        target: Targets; floating ones take the dtype of the outputs.
        samples: Number of samples.
    """
    leaves = {id(z): z.detach().to(wide(z.dtype)).requires_grad_() for z in outputs}
    dtype = next((leaf.dtype for leaf in leaves.values()), torch.float32)
    with torch.enable_grad():
        apart = map_tensors(lambda t: leaves.get(id(t), t), output)
        target = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, target)
        found = record(lambda: loss(apart, target))
    return OutputLoss(tuple(leaves[id(z)] for z in outputs), axes, found, samples)


def loss_inside(recorded: Recorded, samples: int) -> OutputLoss | None:
    """Express a loss computed inside the model as a function of the inputs of torch's losses in it.

    Args:
        recorded: A run of the model and its loss, with their graph.
        samples: Number of samples.

    Returns:
        The loss; None if it uses none of torch's losses.
    """
    if not recorded.terms:
        return None
    return OutputLoss(tuple(term.z for term, _ in recorded.terms), None, recorded, samples)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _classes(term: Term) -> int:
    return term.z.shape[term.dim] if term.mass is not None else 1


def _drawn(term: Term, scale: Tensor, generator: torch.Generator) -> Tensor | None:
    """A random vector in a term's inputs whose second moments are its Hessian."""
    if not scale.any():
        return None
    if term.mass is None:
        return _signs(tuple(term.z.shape), term.z, generator) * scale.sqrt()
    p = term.z.detach().softmax(term.dim)
    signed = p.sqrt() * _signs(tuple(p.shape), p, generator)
    return (signed - p * signed.sum(term.dim, keepdim=True)) * scale.sqrt().unsqueeze(term.dim)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _ranges(count: int, entries: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(entries, 1))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _check_columns(columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"the exact Gauss-Newton diagonal needs {columns} backward passes a batch here, more than {MAX_COLUMNS}: "
            'use method="gauss_newton_sampled".'
        )
