"""How much of a mixture's divergence comes from its routers, and which layers' choices fall otherwise.

    python benchmarks/accuracy_routing.py [--tokens 1024] [--trained FOLDER]

The models of `accuracy_families.py`, computed in PyTorch from the same graph, with activations rounded as the
kernels round them: 8 bits for a token and 32 inputs, 16 where docs/numerics.md says, and queries, keys,
values and probabilities to bf16. That can be done once with the routers' own choices and once with those of
float32 (`forced`), which the kernels cannot. `flips`: by layer, the part of the rows for which another set
of experts is chosen than in float32. `fine`: all activations keep 16 bits. A line is one JSON object.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from accuracy_families import arguments, divergence, made
from accuracy_shapes import FAMILIES
from sampan.kernels.graph import LOGITS, Graph, Node
from sampan.kernels.ops import Attention
from sampan.kernels.torch.ops import Step, Walk, routed, wide
from sampan.models.registry import describe
from sampan.weights.checkpoint import open_checkpoint

EARLY, GROUP = 64, 32  # first positions, which keep 16 bits; inputs that share a scale
Choices = dict[str, Tensor]
# Activations, and what attention reads; `exact` is the reference.
WAYS = {
    "exact": ("exact", False),
    "as it is": ("coarse", True),
    "fine": ("fine", True),
    "fine, float32 cache": ("fine", False),
}


class Rounded(Walk):
    """The operations with rounded activations. `kind`: "exact", "coarse" or "fine". `forced`: choices to make
    by the router's name; `choices`: those that were made."""

    def __init__(self, weights: Any, step: Step, kind: str, forced: Choices) -> None:
        super().__init__(weights, step)
        self._kind, self._forced = kind, forced
        self.choices: Choices = {}

    def linear(self, node: Node, x: Tensor) -> Tensor:
        return super().linear(node, self._act(x, any(part.fine for part in node.detail.parts)))

    def head(self, node: Node, x: Tensor) -> Tensor:
        return super().head(node, self._act(x, True))

    def per_head(self, node: Node, x: Tensor) -> Tensor:
        return super().per_head(node, self._act(x, True))

    def experts(self, node: Node, x: Tensor) -> Tensor:
        router, fine = node.detail.router, node.detail.down[0].parts[0].fine
        name = router.weight.name
        weights, chosen = routed(x, router, self._weights)
        self.choices[name] = chosen
        if name in self._forced:
            chosen = self._forced[name]
            products = functional.linear(wide(x), self._weights[name])
            scores = products.sigmoid() if router.scores == "sigmoid" else products.softmax(-1)
            own = scores.gather(-1, chosen)
            weights = router.scale * (own / own.sum(-1, keepdim=True) if router.normalised else own)
        inputs, done = self._act(x, fine), torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            parts = [self._weights[part.name] for part in node.detail.gate_up[expert].parts]
            gate, up = (functional.linear(inputs[rows], part) for part in parts)
            inner = self._act(functional.silu(gate) * up, fine, rows)
            y = functional.linear(inner, self._weights[node.detail.down[expert].parts[0].name])
            done = done.index_add(0, rows, y * weights[rows, places, None])
        return done

    def _act(self, x: Tensor, fine: bool, rows: Tensor | None = None) -> Tensor:
        if self._kind == "exact":
            return x
        kept = grouped(x, 127 * 256)
        if fine or self._kind == "fine":
            return kept
        positions = self._step.positions if rows is None else self._step.positions[rows]
        return torch.where((positions < EARLY)[:, None], kept, grouped(x, 127))


def grouped(x: Tensor, top: int) -> Tensor:
    """To whole numbers up to `top`, times one scale for each `GROUP`."""
    runs = x.reshape(len(x), -1, GROUP)
    scale = (runs.abs().amax(-1, keepdim=True) / top).clamp(min=1e-30)
    return ((runs / scale).round() * scale).reshape(x.shape)


def attention(rounded: bool) -> Callable[[Attention, Tensor, Tensor, Tensor], Tensor]:
    """Causal attention of one sequence; `rounded`: to bf16, as with a cache of that."""

    def kept(x: Tensor) -> Tensor:
        return x.bfloat16().float() if rounded else x

    def attend(shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(shape.heads // shape.kv_heads, 1) for x in (kept(k), kept(v)))
        scores = torch.einsum("ihd,jhd->hij", kept(q), k) * shape.scale
        scores = scores.masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return torch.einsum("hij,jhd->ihd", kept(weights) / weights.sum(-1, keepdim=True), v)

    return attend


@torch.inference_mode()
def run(
    graph: Graph, weights: dict[str, Tensor], ids: list[int], way: str, forced: Choices
) -> tuple[Tensor, Choices]:
    """Log-probabilities [tokens, vocabulary], and the routers' choices."""
    kind, rounded = WAYS[way]
    places = torch.arange(len(ids))

    def carry(*_: Any) -> Any:
        raise NotImplementedError("no family here carries a state")

    walk = Rounded(weights, Step(torch.tensor(ids), places, places, attention(rounded), carry), kind, forced)
    values: dict[Node, Tensor] = {}
    for node in graph.nodes:
        values[node] = getattr(walk, node.op)(node, *(values[source] for source in node.inputs))
    return torch.log_softmax(values[graph.outputs[LOGITS]].double(), -1), walk.choices


def compare(graph: Graph, weights: dict[str, Tensor], windows: list[list[int]], way: str) -> dict[str, Any]:
    """One way beside the reference, with its own choices and with those of the reference."""
    wanted, found, forced, flips = [], [], [], []
    for ids in windows:
        right, choices = run(graph, weights, ids, "exact", {})
        own, made_choices = run(graph, weights, ids, way, {})
        wanted.append(right)
        found.append(own)
        forced.append(run(graph, weights, ids, way, choices)[0] if choices else own)
        flips.append([_differ(made_choices[name], choices[name]) for name in choices])
    p = torch.cat(wanted)
    row: dict[str, Any] = {"way": way, **divergence(p, torch.cat(found))}
    if flips[0]:
        row["forced_kl_mean"] = divergence(p, torch.cat(forced))["kl_mean"]
        row["flips"] = [round(sum(layer) / len(layer), 4) for layer in zip(*flips, strict=True)]
    return row


def _differ(one: Tensor, other: Tensor) -> float:
    """The part of the rows with another set of experts."""
    return float((one.sort(-1).values != other.sort(-1).values).any(-1).double().mean())


def main() -> None:
    """The command."""
    args = arguments(__doc__).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            files, _, texts = made(name, Path(folder), args)
            with open_checkpoint(files) as checkpoint:
                model = describe(checkpoint.config)
                weights = {name: torch.from_numpy(checkpoint.array(name)) for name in model.weights()}
            for kind, windows in texts.items():
                for way in list(WAYS)[1:]:
                    row = compare(model.graph(LOGITS), weights, windows, way)
                    print(json.dumps({"family": name, "text": kind, **row}), flush=True)


if __name__ == "__main__":
    main()
