"""Programs as tasks: without end, disjoint, right by their own answers; and HumanEval's files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.core.errors import EnvError, UsageError
from sampan.envs.answers import code
from sampan.envs.named import task_of
from sampan.envs.program_file import ProgramFile
from sampan.envs.programs import KINDS, Programs
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.walls import Limits
from sampan.envs.task import key_of, split_of

FENCED = "Here it is:\n```python\n{}\n```\nIt adds."


@pytest.fixture(scope="module")
def patient() -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=60)) as made:
        yield made


@pytest.fixture(scope="module")
def programs(patient: Sandbox) -> Programs:
    return Programs(sandbox=patient)


def test_no_program_is_of_both_splits(programs: Programs) -> None:
    train = {p.key for seed in range(3) for p in programs.problems("train", seed, 200)}
    test = {p.key for seed in range(3) for p in programs.problems("test", seed, 100)}
    assert len(train) > 500
    assert not train & test
    assert {split_of(p) for p in programs.problems("test", 5, 50)} == {"test"}


def test_problems_are_the_seeds(programs: Programs) -> None:
    once = programs.problems("train", 4, 50)
    assert once == programs.problems("train", 4, 50)
    assert once[:20] == programs.problems("train", 4, 20)
    assert once != programs.problems("train", 5, 50)
    assert len({p.key for p in once}) == 50


def test_a_question_has_its_own_cases() -> None:
    """Whatever the seed that it came by."""
    found = {}
    for seed in range(10):
        for problem in Programs(["numbers"]).problems("train", seed, 100):
            assert found.setdefault(problem.key, problem) == problem


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_pass_and_others_do_not(kind: str, patient: Sandbox) -> None:
    task = Programs([kind], sandbox=patient)  # type: ignore[list-item]
    problems = task.problems("test", 1, 25)
    for problem in problems:
        assert task.check(problem, FENCED.format(problem.answer)) == 1.0, problem
    other = problems[0]
    for problem in problems[1:4]:
        assert task.check(problem, other.answer) == 0.0, (problem, other)
    values = Counter(json.dumps(case.value) for case in problems[0].data)  # type: ignore[attr-defined]
    assert len(values) > 1  # nothing that is always the same passes


def test_a_share_may_be_worth_something(patient: Sandbox) -> None:
    task = Programs(["numbers"], partial=True, sandbox=patient)
    problem = next(p for p in task.problems("train", 0, 100) if "larger of x" in p.question)
    assert 0 < task.check(problem, "def f(x): return x") < 1
    assert task.check(problem, problem.answer) == 1.0
    assert task.check(problem, "no program") == 0.0


def test_kinds_are_named() -> None:
    with pytest.raises(UsageError, match="kind 'letters': one of numbers, lists, words"):
        Programs(["letters"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="kinds is empty"):
        Programs([])


def test_programs_are_tasks_by_name(tmp_path: Path) -> None:
    task = task_of('programs?kinds=["lists"]&partial=true&hint=!')
    assert task.name == Programs(["lists"], "!", partial=True).name
    assert task_of("programs?kinds=words").problems("test", 0, 3) == Programs("words").problems("test", 0, 3)
    named = task_of(f"humaneval:{_file(tmp_path, ROW)}")
    assert key_of(named) == key_of(ProgramFile(_file(tmp_path, ROW)))
    assert key_of(named) != key_of(ProgramFile(_file(tmp_path, {**ROW, "test": "pass"})))


def test_code_within_answers() -> None:
    assert code(FENCED.format("def f(x): return x")) == "def f(x): return x"
    assert code("```\na\n```\nor\n```python\nb\nc\n```") == "b\nc"
    assert code("```python\nb\nc") == "b\nc"  # cut
    assert code("def f(x):\n    return x\n") == "def f(x):\n    return x"
    assert code("  \n") == "  "
    assert code("") is None


ROW = {
    "task_id": "Test/0",
    "prompt": "import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef root(x: int) -> int:\n"
    '    """The whole part of half the root.\n    >>> root(17)\n    2\n    """\n',
    "canonical_solution": "    return math.isqrt(x) // 2\n",
    "entry_point": "root",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n"
    "    assert candidate(17) == 2\n    assert candidate(4) == 1\n",
}


def _file(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "programs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_as_humaneval_writes_them(tmp_path: Path, patient: Sandbox) -> None:
    rows = [{**ROW, "prompt": f"# {i}\n{ROW['prompt']}"} for i in range(20)]
    task = ProgramFile(_file(tmp_path, *rows), sandbox=patient)
    train, test = task.problems("train", 0, 10), task.problems("test", 0, 2)
    assert not {p.key for p in train} & {p.key for p in test}
    problem = train[0]
    assert rows[0]["prompt"].splitlines()[3] in problem.question
    body = "    return math.isqrt(x) // 2"
    whole = f"def root(x):\n{body}"
    helped = "def root(x):\n    return int(half(math.isqrt(x)))"
    for answer in (problem.answer, body, f"```python\n{body}\n```", whole, FENCED.format(whole), helped):
        assert task.check(problem, answer) == 1.0, task.verdict(problem, answer)
    for answer in (
        "    return 2",
        "def root(x): return 1",
        "I do not know.",
        "def root(x):\n    while True: root(x)",
    ):
        assert task.check(problem, answer) == 0.0
    with pytest.raises(EnvError, match="has no 21 different problems for train, but"):
        task.problems("train", 0, 21)


def test_tests_without_a_check_function(tmp_path: Path, patient: Sandbox) -> None:
    row = {**ROW, "test": "assert root(17) == 2\nassert root(x=4) == 1"}
    task = ProgramFile(_file(tmp_path, row), sandbox=patient)
    (problem,) = task._problems
    assert task.check(problem, problem.answer) == 1.0
    assert task.check(problem, "    return 2") == 0.0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "", "entry_point": "f"}, "line 2: has no 'test' that is a text"),
        ({**ROW, "test": 1}, "line 2: has no 'test' that is a text"),
        ({**ROW, "entry_point": "f()"}, r"line 2: entry_point 'f\(\)' is no name of a function"),
        ([], "line 2: has no 'prompt' that is a text"),
    ],
)
def test_wrong_lines_are_named(row: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        ProgramFile(_file(tmp_path, ROW, row))
    (tmp_path / "broken").write_text("{\n")
    with pytest.raises(UsageError, match="line 1: no JSON"):
        ProgramFile(tmp_path / "broken")
    with pytest.raises(UsageError, match="cannot be read"):
        ProgramFile(tmp_path / "none")
