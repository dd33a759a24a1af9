"""Exercises of notebook 03: why weight by the Hessian."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nbquant.course.answers import call, number, same, tensor
from nbquant.course.exercise import Exercise, generator

TWO = (0.0, 1.0), (1.0, 3.0)  # weights, and their h


def _best_value(answer: object) -> str | None:
    found = number(answer)
    w, h = (np.array(x) for x in TWO)
    if same(found, float(h @ w / h.sum())):
        return None
    if same(found, float(w.mean())):
        return "that is best if both errors cost the same, but h says that they do not."
    if not w.min() <= found <= w.max():
        return "it lies outside the range of the weights: the nearer end would be better for both."
    if same(found, float((w / h).sum() / (1 / h).sum())):
        return "that is nearer to the weight whose error costs less."
    return "the derivative of ½Σh(w − c)² with respect to c is not zero there."


def _predicted(answer: object) -> str | None:
    h, delta = torch.rand(7, 5, generator=generator()), torch.randn(7, 5, generator=generator())
    found, right = number(call(answer, h, delta)), float(0.5 * (h * delta**2).sum())
    if same(found, right):
        return None
    if same(found, 2 * right):
        return "it is twice the right value: look at the factor of Taylor's second-order term."
    if same(found, right / h.numel()) or same(found, 2 * right / h.numel()):
        return "that is a mean over weights, but the loss of all errors together is required."
    if same(found, float(0.5 * (h * delta).sum())) or same(found, float((h * delta).sum())):
        return "errors of opposite signs cancel in it, but near a minimum each error costs something."
    if same(found, float(0.5 * (delta**2).sum())):
        return "it does not depend on h."
    return "for random h and δ it differs from the second-order expansion."


def _softmax_diagonal(answer: object) -> str | None:
    x = torch.randn(6, 4, generator=generator(), dtype=torch.float64)
    weight = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 2, 1, 0])

    def loss(w: Tensor) -> Tensor:
        return functional.cross_entropy(x @ w.T, target)

    hessian = torch.autograd.functional.hessian(loss, weight).reshape(12, 12)
    right = hessian.diagonal().reshape(3, 4)
    p = (x @ weight.T).softmax(1)
    found = tensor(call(answer, x, p), (3, 4))
    if same(found, right):
        return None
    if same(found, len(x) * right):
        return "that is the sum over samples, but the loss is their mean."
    if same(found, (p.T @ x**2) / len(x)):
        return "p alone is not the second derivative of the log-sum-exp: what is subtracted from it?"
    if same(found, ((p * (1 - p)).T @ x) / len(x)):
        return "the input enters twice, once for each derivative of the chain rule."
    if (found < 0).any():
        return "entries are negative, but this loss is convex in w."
    return "it differs from the Hessian diagonal that autograd computes for the cross-entropy of a linear layer."


EXERCISES = {
    "03.1": Exercise(
        "Two weights w = (0, 1) with sensitivities h = (1, 3) share one value c. Which c costs least? (a number)",
        (
            "½Σh(w − c)² is a parabola in c.",
            "Its derivative with respect to c is zero at the minimum.",
            "The derivative is −Σh(w − c), so c is a mean of the two weights in which each counts h times.",
        ),
        _best_value,
    ),
    "03.2": Exercise(
        "Write predicted(h, delta): the loss increase that the Hessian diagonal predicts, for tensors of one shape.",
        (
            "Write Taylor's series to second order, at a point where the gradient is zero.",
            "Leave out the off-diagonal terms: then one term with δᵢ² remains for each weight.",
            "Multiply h and delta² element by element, add all products, and do not forget the factor ½ of the series.",
        ),
        _predicted,
    ),
    "03.3": Exercise(
        "Write diagonal(x, p): the Hessian diagonal (C, d) of the mean cross-entropy of logits x·Wᵀ, from inputs x "
        "(n, d) and probabilities p (n, C).",
        (
            "A logit is linear in the weight, with the input as the factor.",
            "With respect to the logits, the Hessian of one sample is diag(p) − ppᵀ: what is on its diagonal?",
            "One sample contributes p_c(1 − p_c)·x_j² to the entry (c, j); average that over samples, as one matrix "
            "product.",
        ),
        _softmax_diagonal,
    ),
}
