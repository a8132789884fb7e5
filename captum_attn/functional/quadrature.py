"""Points and weights for integrals over [0, 1]."""

from __future__ import annotations

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor


def gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """The points in (0, 1) and the weights of a Gauss-Legendre quadrature, (points,) each; the weights sum to 1.

    Exact for polynomials up to the degree 2 · points − 1.

    Example:
        >>> points, weights = gauss_legendre(2)
        >>> round(float(weights @ points**3), 6)  # ∫ x³ dx
        0.25
    """
    places, weights = (torch.tensor(part.tolist()) for part in leggauss(points))
    return (1 + places) / 2, weights / 2
