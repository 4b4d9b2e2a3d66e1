"""What both trainers of `train_step.py` are asked, and what an answer is worth. Needs nothing."""

PROMPTS, SAMPLES, TOKENS, RANK = 4, 8, 64, 16  # of a step; tokens of an answer at most; of the adapter
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_THINGS = (
    "a river", "a bridge", "a lighthouse", "a market", "a forest", "a library", "a harbour", "a railway",
    "an orchard", "a castle", "a glacier", "a desert", "a volcano", "an island", "a museum", "a windmill",
)  # fmt: skip


def questions(count: int) -> list[str]:
    """Different ones of about the same length."""
    return [
        f"In a few sentences, tell a child of {5 + place // len(_THINGS)} what "
        f"{_THINGS[place % len(_THINGS)]} is and what people do there."
        for place in range(count)
    ]


def worth(text: str) -> float:
    """Something that no two answers have alike, so that every group has a spread and nothing is left out."""
    return float(text.count("e")) + len(text) / 1000
