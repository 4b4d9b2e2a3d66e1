"""Answers that are mathematics: what means the same agrees; what breaks the verifier is reported, never 0."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sampan.core.errors import EnvError
from sampan.envs.maths import Verified, Verifier
from sampan.envs.named import task_of
from sampan.envs.programs import Programs
from sampan.envs.sandbox.walls import Limits
from sampan.envs.scoring import Scorer
from sampan.envs.task import Problem


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    made = Verifier()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("right", "answer", "agrees"),
    [
        ("7", "The answer is 7.", True),
        ("7", "8", False),
        ("7", "I do not know.", False),
        ("7", "", False),
        ("1,234", "1234", True),
        ("0.5", "1/2", True),
        ("50\\%", "0.5", True),
        ("\\frac{1}{2}", "so it is \\boxed{\\frac{2}{4}}", True),
        ("\\frac{1}{2}", "\\frac{1}{2}", True),
        ("\\frac{1}{2}", "first 1/2, in the end \\boxed{\\frac{1}{3}}", False),
        ("\\sqrt{8}", "$2\\sqrt{2}$", True),
        ("x^2 + 2x + 1", "$(x+1)^2$", True),
        ("x^2 + 2x + 1", "$(x-1)^2$", False),
        ("\\{1, 2\\}", "$\\{2, 1\\}$", True),
        ("(1, 2)", "$(2, 1)$", False),
        ("x = 3", "\\boxed{3}", True),
        ("\\pi", "$3$", False),
    ],
)
def test_what_means_the_same_agrees(right: str, answer: str, agrees: bool, verifier: Verifier) -> None:
    assert verifier.agree(right, answer) is agrees


HOSTILE = {
    "a tower": "2003**2002**2001",
    "a tower in LaTeX": "\\boxed{2003^{2002^{2001}}}",
    "a higher tower": "$9^{9^{9^{9^{9}}}}$",
    "a factorial": "$99999999!!$",
    "a call": "__import__('os')._exit(0)",
    "a call in a box": "\\boxed{__import__('os').system('true')}",
    "brackets": "$" + "(" * 20000 + "$",
    "fractions": "$" + "\\frac{1}{" * 300 + "2" + "}" * 300 + "$",
    "digits": "$" + "9" * 20000 + "$",
    "boxes": "\\boxed{" * 3000,
    "backtracking": "the final answer is " + "\\boxed{" + "$ \\[ " * 300,
    "signs": "-" * 3000 + "1/" + "-" * 3000,
    "half a letter": "\\boxed{\ud800}",
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Verifier]:
    made = Verifier()
    made._scorer = Scorer("maths", "math_verify", Limits(seconds=1, cpu=600, memory=2 << 30))
    made._scorer._sandbox.child().close()  # it starts on no answer's time
    yield made
    made.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_hangs_deceives_or_ends_the_verifier(name: str, impatient: Verifier) -> None:
    with suppress(EnvError):
        assert not impatient.agree("7", HOSTILE[name])


def test_a_verifier_out_of_time_is_reported_and_replaced() -> None:
    verifier = Verifier()
    verifier._scorer = Scorer("maths", "math_verify", Limits(seconds=8, cpu=600, memory=2 << 30))
    assert verifier.agree("7", "7")
    keeper = verifier._scorer._sandbox._kept()._process
    assert keeper is not None
    before = psutil.Process(keeper.pid).children(recursive=True)
    with pytest.raises(EnvError, match=r"the check of '2003\*\*2002\*\*2001' took longer than 8 seconds"):
        verifier.agree("7", "2003**2002**2001")
    assert len(psutil.wait_procs(before[-1:], timeout=10)[0]) == 1  # who checked it is gone
    assert verifier.agree("7", "7")
    for process in psutil.Process(keeper.pid).children(recursive=True)[-1:]:
        process.kill()
    with pytest.raises(EnvError, match="the check of '8' was ended by SIGKILL"):
        verifier.agree("7", "8")
    assert verifier.agree("7", "7")
    verifier.close()


def test_a_right_answer_that_is_none_is_reported(verifier: Verifier) -> None:
    with pytest.raises(EnvError, match="cannot check '7'"):
        verifier.agree("", "7")


def test_files_of_problems(tmp_path: Path) -> None:
    path = tmp_path / "maths.jsonl"
    rows = [{"question": f"What is {i} / 2?", "answer": f"\\frac{{{i}}}{{2}}"} for i in range(1, 31)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(f"jsonl:{path}?checker=maths")
    problem = task.problems("train", 0, 15)[0]
    number = int(problem.question.split()[2])
    assert task.check(problem, f"That makes \\boxed{{{number / 2}}}.") == 1.0
    assert task.check(problem, f"That makes \\boxed{{{number}}}.") == 0.0


def test_another_tasks_problems() -> None:
    task = Verified(Programs())
    assert task.name.endswith("by math-verify")
    assert task.problems("test", 0, 3) == Programs().problems("test", 0, 3)
    problem = Problem("What is half of 3?", "1.5")
    assert [task.check(problem, answer) for answer in ("It is 3/2.", "It is 3.")] == [1.0, 0.0]
