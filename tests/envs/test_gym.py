"""Tasks of reasoning-gym: different problems, never the same in training and testing, checked by their
own rules."""

import inspect
import re
from pathlib import Path

import pytest

from sampan.core.errors import EnvError, UsageError
from sampan.core.types import Completion
from sampan.envs.answers import last_number, last_word, tagged, whole
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct, ended, overlong
from sampan.envs.sandbox.walls import Limits
from sampan.envs.scorers import EXPRESSIONS, LITERALS
from sampan.envs.scoring import Scorer
from sampan.envs.task import split_of


@pytest.fixture(scope="module")
def sums() -> GymTask:
    return GymTask(
        "chain_sum", "\nGive only the answer.", min_terms=3, max_terms=3, min_digits=1, max_digits=1
    )


def test_no_problem_is_of_both_splits(sums: GymTask) -> None:
    train = {problem.key for seed in range(3) for problem in sums.problems("train", seed, 300)}
    test = {problem.key for seed in range(3) for problem in sums.problems("test", seed, 200)}
    assert len(train) > 500
    assert not train & test
    for problem in sums.problems("test", 7, 20):
        assert split_of(problem) == "test"


def test_problems_are_the_seeds(sums: GymTask) -> None:
    once, again = sums.problems("train", 4, 50), sums.problems("train", 4, 50)
    assert [problem.question for problem in once] == [problem.question for problem in again]
    assert [problem.key for problem in once] != [problem.key for problem in sums.problems("train", 5, 50)]
    assert len({problem.key for problem in once}) == 50
    assert once[:20] == sums.problems("train", 4, 20)


def test_checks_are_the_tasks_own(sums: GymTask) -> None:
    problem = sums.problems("train", 0, 1)[0]
    reward = correct(sums, last_number)
    assert reward(problem, _answer(f"That makes {problem.answer}.")) == 1.0
    assert reward(problem, _answer(f"That makes {int(problem.answer) + 1}.")) == 0.0
    assert reward(problem, _answer("I do not know.")) == 0.0


def test_the_tasks_that_evaluate_answers_are_known() -> None:
    """Those of the version that is installed: whoever evaluates what a model said is here."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    evaluating = set()
    for name, (kind, _) in DATASETS.items():
        text = inspect.getsource(kind.score_answer)
        if name != "propositional_logic" and re.search(r"\beval\(|\bexec\(|parse_expr\(|sympify\(", text):
            evaluating.add(name)
    assert reasoning_gym.__name__
    assert evaluating - {"number_sorting"} == LITERALS | EXPRESSIONS  # the former evaluates its own answer


@pytest.mark.parametrize("task", sorted(LITERALS | EXPRESSIONS))
def test_evaluated_answers_are_checked_in_a_sandbox(task: str, tmp_path: Path) -> None:
    gym = GymTask(task)
    problems = gym._made(0, 3)
    assert [gym.check(problem, problem.answer) for problem in problems] == [1.0] * 3
    left = tmp_path / "left"
    for attack in (
        f"open({str(left)!r}, 'w')",
        "__import__('os')._exit(0)",
        "[exit()]",
        "exec(bytes([112, 97, 115, 115]))",
        "().__class__.__base__.__subclasses__()",
        "[x for x in (lambda: [1])()]",
        "Symbol('x').func('__import__(\"os\").getpid()')",
        "ｅｘｅｃ('pass')",
    ):
        assert gym.check(problems[0], attack) < 0.1, attack
    assert not left.exists()


def test_an_answer_that_takes_for_ever_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer("gym", "reasoning_gym", Limits(seconds=3, cpu=60, memory=4 << 30))
    monkeypatch.setattr("sampan.envs.gym._scorer", lambda: scorer)
    gym = GymTask("countdown")
    problem = gym._made(0, 1)[0]
    scorer._sandbox.child().close()  # it starts on no answer's time
    with pytest.raises(
        EnvError, match=r"countdown.*the check of '9\*\*9\*\*9\*\*9' took longer than 3 seconds"
    ):
        gym.check(problem, "9**9**9**9")
    scorer.close()


def test_a_task_with_too_few_problems_says_so() -> None:
    tiny = GymTask("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    with pytest.raises(EnvError, match="no 5000 different problems for test"):
        tiny.problems("test", 0, 5000)


@pytest.mark.parametrize(("task", "options"), [("no_such_task", {}), ("chain_sum", {"terms": 3})])
def test_what_is_not_there_is_refused(task: str, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=task):
        GymTask(task, **options)


def test_answers_within_texts() -> None:
    assert last_number("1 and 2, so 1,234.5.") == "1234.5"
    assert last_number("3 - 5 = -2") == "-2"
    assert last_number("none") is None
    assert tagged("<answer> 4 </answer> or <answer>5</answer>") == "5"
    assert whole(" yes.\n") == "yes"
    assert last_word("I think that it's a well-known **naïve** one-2!") == "one-2"
    assert last_word("?!") is None


def test_rewards_of_form() -> None:
    reward = overlong(longest=10, buffer=4)
    assert [reward(None, _answer("", tokens)) for tokens in (6, 8, 10, 12)] == [0.0, -0.5, -1.0, -1.0]  # type: ignore[arg-type]
    assert ended(None, _answer("x")) == 1.0  # type: ignore[arg-type]


def _answer(text: str, tokens: int = 1) -> Completion:
    return Completion(text, "", (1,) * tokens, (), "stop", 1)
