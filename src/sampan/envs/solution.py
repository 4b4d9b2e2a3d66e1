"""What a worked solution is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Solution:
    """What is said first, a step a line, and what comes out."""

    steps: tuple[str, ...]
    answer: str

    @property
    def plain(self) -> str:
        """As one text, which ends with the answer."""
        return "\n".join([*self.steps, f"The answer is {self.answer}."])

    @property
    def tagged(self) -> str:
        """As DeepSeek-R1 has it: thoughts and answer between tags (`form.formatted`, `answers.tagged`)."""
        thoughts = "\n".join(self.steps)
        return f"<think>\n{thoughts}\n</think>\n<answer>{self.answer}</answer>"
