"""Tasks of one's own, from a file of Python or a file of lines; and tasks by name."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import EnvError, SampanError, UsageError
from sampan.core.types import Completion
from sampan.envs.checks import CHECKS
from sampan.envs.gym import GymTask
from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.lines import Lines
from sampan.envs.named import task_of
from sampan.envs.own import task_in
from sampan.envs.rewards import correct
from sampan.envs.task import key_of, split_of
from sampan.envs.worked import solver_of

DOUBLES = """
class Doubles:
    def question(self, random):
        number = random.randrange(100_000)
        return f"What is twice {number}?", str(2 * number)

    def check(self, problem, answer):
        return answer == problem.answer
"""


def write(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_file_of_ten_lines_is_a_task(tmp_path: Path) -> None:
    task = task_of(f"file:{write(tmp_path, DOUBLES)}?hint=%0AOnly the number.")
    train, test = task.problems("train", 0, 500), task.problems("test", 0, 500)
    assert len({problem.key for problem in train}) == 500
    assert not {problem.key for problem in train} & {problem.key for problem in test}
    assert task.problems("train", 0, 10) == train[:10]
    assert train[0].question.endswith("?\nOnly the number.")
    reward = correct(task, task.extract)  # type: ignore[attr-defined]
    assert reward(train[0], said(f" {train[0].answer}. ")) == 1.0
    assert reward(train[0], said("12")) == 0.0


def test_a_class_may_have_options_data_an_extractor_and_solutions(tmp_path: Path) -> None:
    text = """
        from dataclasses import dataclass

        @dataclass
        class Times:
            factor: int = 2

            def question(self, random):
                n = random.randrange(9999)
                return f"{n} * {self.factor}?", str(n * self.factor), {"n": n}

            def check(self, problem, answer):
                return 1 if answer == problem.answer else 0.5 * (answer == str(problem.data["n"]))

            def extract(self, text):
                return text.split()[-1]

            def solution(self, problem):
                from sampan.envs.solution import Solution
                return Solution((f"{problem.data['n']} {self.factor} times.",), problem.answer)
    """
    path = write(tmp_path, "\n".join(line[8:] for line in text.splitlines()))
    task = task_of(f"file:{path}?factor=3")
    problem = task.problems("train", 0, 1)[0]
    assert int(problem.answer) == 3 * problem.data["n"]  # type: ignore[index]
    assert task.check(problem, str(problem.data["n"])) == 0.5  # type: ignore[index]
    assert correct(task, task.extract)(problem, said(f"It is {problem.answer}")) == 1.0  # type: ignore[attr-defined]
    assert solver_of(task)(problem).plain.endswith(f"3 times.\nThe answer is {problem.answer}.")
    with pytest.raises(UsageError, match="unexpected keyword argument 'facto'"):
        task_of(f"file:{path}?facto=3")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def question(:\n    pass", "SyntaxError.*line 1"),
        ("import nothing_like_this", "ModuleNotFoundError.*line 1 of mine.py"),
        ("x = 1", "one class with a method question; there is none"),
        (DOUBLES + DOUBLES.replace("Doubles", "Others"), "there is Doubles, Others"),
        ("class A:\n    def question(self, random):\n        return 'a', 'b'", "no method check"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=rf"mine\.py.*{told}|{told}"):
        task_in(write(tmp_path, text))


def test_a_wrong_question_is_told(tmp_path: Path) -> None:
    broken = DOUBLES.replace("str(2 * number)", "2 * number")
    with pytest.raises(UsageError, match=r"mine.py: question gives .*give two texts"):
        task_in(write(tmp_path, broken)).problems("train", 0, 1)
    broken = DOUBLES.replace("randrange(100_000)", "rand()")
    with pytest.raises(UsageError, match="surrogates"):
        task_in(write(tmp_path, DOUBLES.replace("What is", r"\ud800"))).problems("train", 0, 1)
    with pytest.raises(UsageError, match=r"mine.py: question: AttributeError.*line 4 of mine.py"):
        task_in(write(tmp_path, broken)).problems("train", 0, 1)


@pytest.mark.parametrize("gives", ["1 / 0", "float('nan')", "-1", "2", "'much'", "None"])
def test_a_check_that_breaks_is_no_zero(tmp_path: Path, gives: str) -> None:
    task = task_in(write(tmp_path, DOUBLES.replace("answer == problem.answer", gives)))
    problem = task.problems("train", 0, 1)[0]
    with pytest.raises(EnvError, match=r"mine\.py"):
        task.check(problem, "7")


def test_few_problems_are_told(tmp_path: Path) -> None:
    task = task_in(write(tmp_path, DOUBLES.replace("100_000", "50")))
    with pytest.raises(EnvError, match="no 50 different problems for train: 4"):
        task.problems("train", 0, 50)


def test_lines_of_a_file_are_a_task(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 1?", "answer": n + 1, "source": n} for n in range(200)]
    asked = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}]
    rows += [
        {"messages": asked, "checker": "text"},
        {"messages": asked[:1], "answer": "Yes.", "checker": "text"},
    ]
    path = write(tmp_path, "\n\n".join(map(json.dumps, rows)) + "\n", "d.jsonl")
    task = task_of(f"jsonl:{path}?checker=number")
    assert isinstance(task, Lines)
    train = task.problems("train", 0, 140)
    test = task.problems("test", 0, 25)
    assert not {problem.key for problem in train} & {problem.key for problem in test}
    assert all(split_of(problem) == "test" for problem in test)
    assert train != task.problems("train", 1, 140)
    assert train[:20] == task.problems("train", 0, 20)
    reward = correct(task, task.extract)
    for problem in (*train, *test):
        if problem.question == "Is it?":
            assert [reward(problem, said(text)) for text in ("yes", "no")] == [1.0, 0.0]
            continue
        right = int(problem.answer)
        assert problem.data == {"source": right - 1}
        assert reward(problem, said(f"{right - 1} + 1 = {right}.0.")) == 1.0
        assert reward(problem, said("I cannot say")) == 0.0
    with pytest.raises(EnvError, match=r"no 500 different problems for train: 1"):
        task.problems("train", 0, 500)


def test_labels_are_the_answers_of_the_file(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": "even" if n % 2 == 0 else "odd"} for n in range(40)]
    task = Lines(write(tmp_path, "\n".join(map(json.dumps, rows)), "d.jsonl"), checker="label")
    for problem in task.problems("train", 0, 25):
        assert task.check(problem, f"Not odd, not even; {problem.answer.upper()}!") == 1.0
        assert task.check(problem, "oddly") == 0.0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "Expecting property name"),
        ("[1]", "is no object"),
        ('{"answer": "a"}', "give question or messages, one of both"),
        ('{"question": "q", "messages": [], "answer": "a"}', "one of both"),
        ('{"question": "q"}', "answer is None"),
        ('{"question": " ", "answer": "a"}', "question is ' '"),
        ('{"question": "q", "answer": true}', "answer is True"),
        ('{"question": "q", "answer": "a", "checker": "best"}', "checker is 'best': one of exact, number"),
        ('{"question": "q", "answer": "a", "checker": ["text"]}', "checker is"),
        ('{"question": "q", "answer": "a", "checker": "number"}', "no number"),
        ('{"messages": "hello", "answer": "a"}', "no list of objects"),
        ('{"messages": [{"role": "system", "content": "x"}], "answer": "a"}', "the roles system"),
        ('{"question": "first?", "answer": "other"}', "asks what line 1 asks"),
        ('{"question": "q", "answer": "\\ud800"}', "surrogates"),
        ("[" * 100_000, "recursion"),
    ],
    ids=range(15),
)
def test_a_wrong_line_is_told_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    path = write(tmp_path, '{"question": "first?", "answer": "one"}\n' + line, "d.jsonl")
    with pytest.raises(UsageError, match=rf"d\.jsonl, line 2: .*{told}"):
        Lines(path)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"question": "\xff"}')
    for name, told in (
        ("no.jsonl", "no such file"),
        ("e.jsonl", "has no problem"),
        ("b.jsonl", "line 1: .*utf-8"),
    ):
        write(tmp_path, "\n", "e.jsonl")
        with pytest.raises(UsageError, match=told):
            task_of(f"jsonl:{tmp_path / name}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hanz", "there is hans, programs, syllogism, gym:TASK"),
        ("gym:", "there is hans"),
        ("", "there is hans"),
        ("hans?x=1", "unexpected keyword argument 'x'"),
        ("hans?plain", "options are name=value"),
        ("hans?plain=true&plain=true", "gives plain twice"),
        ("syllogism?premises=9", "premises is 9"),
        ("gym:no_such_task", "no_such_task"),
        ("gym:chain_sum?seed=3", "seed"),
        ("gym:chain_sum?terms=3", "terms"),
        ("file:/nowhere/x.py", "no such file"),
        ("jsonl:/nowhere/x.jsonl?checker=best", "checker is 'best'"),
    ],
)
def test_wrong_names_are_refused(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        task_of(name)


def test_names_have_options() -> None:
    task = task_of('syllogism?premises=3&labels=["true", "false", "unknown"]&words=animals&hint=5')
    assert isinstance(task, Syllogisms)
    assert task.labels == ("true", "false", "unknown")
    assert task.hint == "5"
    task = task_of("gym:chain_sum?min_terms=2&max_terms=2&hint=%0AGive only the answer.")
    assert isinstance(task, GymTask)
    assert task.options == {"min_terms": 2, "max_terms": 2}
    assert task.problems("test", 0, 1)[0].question.endswith("=\nGive only the answer.")


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_any_name_is_a_task_or_refused(name: str) -> None:
    for full in (name, f"hans?{name}", f"syllogism?{name}=1"):
        with suppress(SampanError):
            assert task_of(full).name


def test_keys_are_of_what_is_asked(tmp_path: Path) -> None:
    path, lines = write(tmp_path, DOUBLES), '{"question": "q", "answer": "a"}\n'
    names = ["hans", "hans?plain=true", "syllogism", "gym:gcd", "gym:gcd?max_value=9", "gym:gcd?hint=x"]
    names += [f"file:{path}", f"jsonl:{write(tmp_path, lines, 'd.jsonl')}"]
    before = [key_of(task_of(name)) for name in names]
    assert len(set(before)) == len(names)
    assert before == [key_of(task_of(name)) for name in names]
    write(tmp_path, DOUBLES.replace("twice", "two times"))
    write(tmp_path, lines.replace('"a"', '"b"'), "d.jsonl")
    after = [key_of(task_of(name)) for name in names]
    assert after[:-2] == before[:-2]
    assert not set(after[-2:]) & set(before)


@given(st.text(), st.text())
@settings(deadline=None)
def test_checks_take_any_text(one: str, other: str) -> None:
    for check in CHECKS.values():
        check(one, other)
    assert CHECKS["exact"](one, one)
    assert CHECKS["text"](one, f" {one} ")


def said(text: str) -> Completion:
    return Completion(text, "", (1,), (), "stop", 1)
