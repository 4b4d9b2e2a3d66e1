"""A matrix for each head, and what adapters add to it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sampan.kernels.ops import PerHead


def per_head(x: Tensor, weight: PerHead, weights: Mapping[str, Tensor]) -> Tensor:
    """x [T, heads, inputs] to [T, heads, outputs]."""
    matrices = torch.stack([weights[part.name] for part in weight.parts])
    return torch.einsum("thi,hio->tho" if weight.transposed else "thi,hoi->tho", x, matrices)


def low_rank(x: Tensor, weight: PerHead, products: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """The same of B A: where the matrices are transposed, so are these."""
    a, b = (torch.stack(each) for each in zip(*(products[part.name] for part in weight.parts), strict=True))
    if weight.transposed:
        return torch.einsum("thi,hir,hro->tho", x, b, a)
    return torch.einsum("thi,hri,hor->tho", x, a, b)
