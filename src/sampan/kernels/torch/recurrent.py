"""What carries a state from row to row: causal convolutions and the gated delta rule, in float32 at least.

A state, and a sequence's next rows, to what these give and the state behind them. Row after row: a row's
result does not depend on how a sequence is cut.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sampan.kernels.ops import DeltaRule

_EPS = 1e-6  # beside squared lengths of q and k


def convolved(weight: Tensor, state: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [channels, taps], `state` [taps - 1, channels], `rows` [n, channels]."""
    seen = torch.cat((state, rows.to(state.dtype)))
    sums = (seen.unfold(0, weight.shape[1], 1) * weight).sum(-1)
    return functional.silu(sums).to(rows.dtype), seen[len(rows) :]


def delta_rule(
    rule: DeltaRule, decay: Tensor, bias: Tensor, state: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """`decay`, `bias` [heads]; `state` [heads, key size, value size]; `rows` [n, rule.width + 2 * heads]."""
    keys = rule.key_heads * rule.key_size
    sizes = [keys, keys, rule.heads * rule.value_size, rule.heads, rule.heads]
    q, k, v, b, a = torch.split(rows.to(state.dtype), sizes, -1)
    q, k = (_unit(x.reshape(len(x), rule.key_heads, -1), rule.heads) for x in (q, k))
    q, v = q * rule.key_size**-0.5, v.reshape(len(v), rule.heads, -1)
    kept = (-decay.exp() * functional.softplus(a + bias)).exp()
    beta, done = b.sigmoid(), []
    for row in range(len(rows)):
        state = state * kept[row, :, None, None]
        change = beta[row, :, None] * (v[row] - torch.einsum("hkv,hk->hv", state, k[row]))
        state = state + k[row, :, :, None] * change[:, None]
        done.append(torch.einsum("hkv,hk->hv", state, q[row]))
    return torch.stack(done).flatten(-2).to(rows.dtype), state


def _unit(x: Tensor, heads: int) -> Tensor:
    """[n, key heads, key size] of length one, for each of the heads."""
    x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPS)
    return x.repeat_interleave(heads // x.shape[1], 1)
