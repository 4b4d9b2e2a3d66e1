"""Benchmarks: the real problems of real packages, each right by its own answer and wrong by others."""

import gzip
import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest

from sampan.core.errors import EnvError, UsageError
from sampan.envs.task import Problem, split_of
from sampan.evals.benchmark import Benchmark
from sampan.evals.named import LISTED, NAMES, PACKAGED, benchmark_of, benchmarks_of
from sampan.evals.tasks.choices import Chosen
from sampan.evals.tasks.labels import Labelled
from sampan.evals.tasks.numbers import Numeric

OF_ROWS = [name for name in PACKAGED if name != "humaneval"]
KINDS = {
    name: next(kind for kind in (Numeric, Chosen, Labelled, object) if issubclass(PACKAGED[name], kind))
    for name in PACKAGED
}
CHOICES = [name for name, kind in KINDS.items() if kind is Chosen]

ENDS = (
    "The answer is {}.",
    "**Answer:** {}",
    "### Answer\n{}",
    "Therefore, the final answer is $\\boxed{{{}}}$.",
    "<think>\nThe answer is 12 (E) false box.\n</think>\n\n{}",
    "So the correct answer would be **{}**.",
    "I weighed 3 of them.\n\n{}",
)


@pytest.fixture(scope="module", params=OF_ROWS)
def benchmark(request: pytest.FixtureRequest) -> Benchmark:
    return benchmark_of(request.param)


def others(benchmark: Benchmark, problem: Problem) -> list[str]:
    """Wrong answers of the same kind."""
    kind = KINDS[benchmark.name]
    if kind is Numeric:
        return [str(int(problem.answer) + 1), f"-{problem.answer}", f"{problem.answer}0"]
    if kind is Chosen:
        count = len(problem.data.texts)  # type: ignore[attr-defined]
        return [letter for letter in ascii_uppercase[:count] if letter != problem.answer]
    if kind is Labelled:
        return [label for label in benchmark.labels if label != problem.answer]  # type: ignore[attr-defined]
    return ["envelope" if problem.answer != "envelope" else "box"]


def test_a_benchmark_has_as_many_problems_as_it_says(benchmark: Benchmark) -> None:
    problems = benchmark.problems(0, None)
    assert len(problems) == benchmark.size
    assert len({problem.key for problem in problems}) == benchmark.size
    assert benchmark.problems(1, 7) == problems[:7]
    assert benchmark.about.source
    assert benchmark.about.licence
    assert "sha256:" in benchmark.about.version


def test_each_problem_is_right_by_its_own_answer_and_by_no_other(benchmark: Benchmark) -> None:
    for at, problem in enumerate(benchmark.problems(0, None)):
        end = ENDS[at % len(ENDS)]
        text = end.format(problem.answer)
        assert benchmark.answer_in(problem, text) == problem.answer, (problem, text)
        assert benchmark.check(problem, text) == 1.0, (problem, text)
        for wrong in others(benchmark, problem):
            assert benchmark.check(problem, end.format(wrong)) == 0.0, (problem, end.format(wrong))
        assert benchmark.check(problem, "I do not know.") == 0.0
        assert benchmark.check(problem, "") == 0.0


@pytest.mark.parametrize("name", CHOICES)
def test_an_option_may_be_answered_in_its_own_words(name: str) -> None:
    benchmark = benchmark_of(name)
    for problem in benchmark.problems(0, 300):
        choice: Any = problem.data
        right = choice.texts[choice.options.right]
        for text in (right, f"The answer is: {right}", f"({problem.answer}) {right}"):
            assert benchmark.check(problem, text) == 1.0, (problem, text)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind in (Chosen, Labelled)])
def test_likelihoods_have_the_right_option_among_them(name: str) -> None:
    benchmark = benchmark_of(name)
    for problem in benchmark.problems(0, None):
        options = benchmark.options(problem)
        assert options is not None
        assert options.context.endswith(" ")
        assert len(set(options.continuations)) == len(options.continuations) > 1
        assert all(map(str.strip, options.continuations))
        assert problem.answer in (ascii_uppercase[options.right], options.continuations[options.right])


@pytest.mark.parametrize("name", CHOICES)
def test_no_place_is_right_much_more_often_than_another(name: str) -> None:
    problems = benchmark_of(name).problems(0, None)
    most = max(sum(problem.answer == letter for problem in problems) for letter in "ABCDEFGHIJ")
    assert most < 0.62 * len(problems)


def test_every_solution_of_humaneval_passes_in_the_sandbox_and_others_do_not() -> None:
    benchmark = benchmark_of("humaneval")
    problems = benchmark.problems(0, None)
    assert len(problems) == benchmark.size == 164
    for at, problem in enumerate(problems):
        name = problem.data.name  # type: ignore[attr-defined]
        text = f"Here:\n```python\n{problem.answer}```\nUse it:\n```python\nprint({name}(1))\n```\nDone."
        assert benchmark.check(problem, text) == 1.0, name
        if at % 8 == 0:
            assert benchmark.check(problem, problem.answer) == 1.0
            wrong = f"```python\ndef {name}(*arguments):\n    return None\n```"
            assert benchmark.check(problem, wrong) == 0.0, name
            assert benchmark.answer_in(problem, wrong) == wrong.split("\n", 1)[1].removesuffix("\n```")
            assert benchmark.check(problem, "I cannot.") == 0.0


def test_a_check_that_breaks_is_told_and_no_wrong_answer(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "def f():\n", "entry_point": "f", "test": "import nothing"}))
    benchmark = benchmark_of(f"humaneval:{path}")
    (problem,) = benchmark.problems(0, None)
    with pytest.raises(EnvError, match="the tests of 'f'"):
        benchmark.check(problem, "```python\ndef f():\n    return 1\n```")


def test_each_name_has_a_line_and_a_benchmark() -> None:
    for name in NAMES:
        assert LISTED[name].strip() == LISTED[name] != ""
        assert "\n" not in LISTED[name]
        if ":" not in name:
            assert benchmark_of(name).name == name
    for name in ("hans", "syllogism?premises=3", "programs?kinds=words", "gym:chain_sum?min_terms=2"):
        benchmark = benchmark_of(name)
        assert (benchmark.name, benchmark.size) == (name, None)
        problems = benchmark.problems(3, 20)
        assert problems == benchmark.problems(3, 30)[:20]
        assert len({problem.key for problem in problems}) == 20
        assert {split_of(problem) for problem in problems} == {"test"}
        assert problems != benchmark.problems(4, 20)
        assert len(benchmark.problems(0, None)) == 200
        assert benchmark.about.version


@pytest.mark.parametrize("name", ["hans", "syllogism", "gym:chain_sum", "gym:spell_backward", "programs"])
def test_tasks_without_end_are_right_by_their_own_answers(name: str) -> None:
    benchmark = benchmark_of(name)
    for problem in benchmark.problems(0, 12):
        if name == "programs":
            assert benchmark.check(problem, f"```python\n{problem.answer}\n```") == 1.0
        else:
            said = ("The answer is {}.", "Let me see: 12.\n<answer>{}</answer>", "{}")
            assert [benchmark.check(problem, text.format(problem.answer)) for text in said] == [1.0] * 3
            assert benchmark.answer_in(problem, f"<think>no</think>{problem.answer}") == problem.answer
        assert benchmark.check(problem, "<think>I never ended this: <answer>4</answer>") == 0.0
        assert ("<answer>" in benchmark.question(problem)) == name.startswith("gym:")


def test_a_task_that_ends_gives_what_it_has() -> None:
    benchmark = benchmark_of("gym:tower_of_hanoi")
    problems = benchmark.problems(0, None)
    assert 10 < len(problems) < 200
    assert benchmark.problems(0, 100) == problems
    assert benchmark.problems(0, 5) == problems[:5]


def test_a_class_of_ones_own_finds_and_checks_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "class Doubles:\n"
        "    def question(self, random):\n"
        "        number = random.randrange(10_000)\n"
        "        return f'Twice {number}?', str(2 * number)\n"
        "    def extract(self, text):\n"
        "        return text.rpartition('=')[2].strip() or None\n"
        "    def check(self, problem, answer):\n"
        "        return answer == problem.answer\n"
    )
    benchmark = benchmark_of(f"file:{path}")
    (problem,) = benchmark.problems(0, 1)
    assert benchmark.question(problem) == problem.question
    assert benchmark.check(problem, f"<think>= 1</think>That is = {problem.answer}") == 1.0
    assert benchmark.check(problem, "That is =") == 0.0
    assert benchmark.answer_in(problem, "a = 5") == "5"
    assert benchmark.about.licence == "not published"


def test_likelihoods_of_labels_are_asked_of_tasks_too() -> None:
    benchmark = benchmark_of('hans?labels=["yes","no"]')
    problem = benchmark.problems(0, 1)[0]
    options = benchmark.options(problem)
    assert options is not None
    assert options.continuations == ("yes", "no")
    assert options.continuations[options.right] == problem.answer
    assert benchmark_of("gym:chain_sum").options(problem) is None


def test_all_lines_of_a_file_of_ones_own_are_measured_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [{"question": f"What is {n} and {n}?", "answer": 2 * n} for n in range(1, 51)]
    path.write_text("\n".join(map(json.dumps, rows)))
    benchmark = benchmark_of(f"jsonl:{path}?checker=number")
    problems = benchmark.problems(0, None)
    assert benchmark.size == 50
    assert [problem.question for problem in problems] == [row["question"] for row in rows]
    assert benchmark.problems(9, 3) == problems[:3]
    assert benchmark.check(problems[4], "<think>9</think>That makes 10.") == 1.0
    assert benchmark.check(problems[4], "That makes 11.") == 0.0
    assert benchmark.answer_in(problems[4], "That makes 1,010.") == "1010"
    assert benchmark.about.version != benchmark_of(f"jsonl:{path}").about.version


def test_a_file_of_programs_may_be_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    tests = "def check(candidate):\n    assert candidate(2) == twice(2)"
    start = "def twice(x):\n    return 2 * x\n\ndef double(x):\n"
    row = {
        "prompt": start,
        "entry_point": "double",
        "test": tests,
        "canonical_solution": "    return x + x\n",
    }
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    benchmark = benchmark_of(f"humaneval:{path}")
    assert benchmark.size == 1
    (problem,) = benchmark.problems(0, None)
    assert benchmark.check(problem, f"```python\n{problem.answer}```") == 1.0
    assert benchmark.check(problem, "```python\ndef double(x):\n    return 3 * x\n```") == 0.0
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"own.jsonl.gz: cannot be read"):
        benchmark_of(f"humaneval:{path}")


@pytest.mark.parametrize("kind", ["jsonl", "humaneval"])
def test_a_broken_line_is_told_with_its_number(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    row = {"question": "2 + 2", "answer": "4", "prompt": "def f():\n", "entry_point": "f", "test": ""}
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row)[:-7]}\n")
    with pytest.raises(UsageError, match=r"own.jsonl, line 3: "):
        benchmark_of(f"{kind}:{path}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gsm9k", "'gsm9k': there is none of this name; near: gsm8k"),
        ("HumanEvl", "near: humaneval"),
        ("gpqa", "near: .*gpqa"),
        ("zzzzzz", "there is gsm8k, humaneval, .*jsonl:DATA.jsonl"),
        ("gsm8k?shots=5", "gsm8k has no options"),
        ("gym:chain_sm", "not registered; near: chain_sum"),
        ("gym:chain_sum?terms=3", "terms"),
        ("gym", "there is hans"),
        ("hans?colour=red", "colour"),
        ("jsonl:nowhere.jsonl", "nowhere.jsonl: there is no such file"),
        ("", "there is gsm8k"),
    ],
)
def test_what_there_is_not_is_told_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        benchmark_of(name)


def test_several_are_named_with_commas_between_them() -> None:
    text = 'gsm8k, hans?labels=["a","b"],programs?kinds=["words","lists"]&hint= Be brief, please'
    with pytest.raises(UsageError, match="'please'"):
        benchmarks_of(text)
    found = benchmarks_of(text.removesuffix(", please"))
    assert [each.name for each in found] == [
        "gsm8k", 'hans?labels=["a","b"]', 'programs?kinds=["words","lists"]&hint= Be brief',
    ]  # fmt: skip
    with pytest.raises(UsageError, match="'gsm8k' is there twice"):
        benchmarks_of("gsm8k,aime25,gsm8k")
    with pytest.raises(UsageError, match="there is none"):
        benchmarks_of(" , ")
