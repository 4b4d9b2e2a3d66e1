"""What shows a run says what its log says: every step once, under the names that people know."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sampan.cli.main import main
from sampan.core.errors import SampanError
from sampan.envs.gym import GymTask
from sampan.envs.task import key_of
from sampan.train.log import Log
from sampan.train.report.read import read_run
from sampan.train.watch import answers
from sampan.train.watch.answers import Measured
from sampan.train.watch.board import Board
from sampan.train.watch.figures import figures_of

# As TRL's GRPO logs them.
NAMES = [
    "reward", "rewards/long/mean", "rewards/long/std", "frac_reward_zero_std", "clip_ratio/low_mean",
    "clip_ratio/high_mean", "entropy", "kl", "completions/mean_length", "completions/clipped_ratio",
    "sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/mean",
    "sampling/importance_sampling_ratio/max", "learning_rate", "grad_norm", "loss", "step_time",
    "seconds/rollout", "seconds/gradients", "seconds/update",
]  # fmt: skip


def test_event_files_have_the_known_figures_of_every_step(watched: Path) -> None:
    shown = _shown(watched)
    assert sorted(shown) == ["stage-0", "stage-1", "stage-2"]
    assert set(NAMES) <= set(shown["stage-2"])
    assert all(steps == [1, 2, 3] for steps, _ in (shown["stage-2"][name] for name in NAMES))
    rows = [row for row in Log(watched).rows() if row.get("stage") == 2 and "number" in row]
    for name, path in (("reward", ["reward"]), ("entropy", ["entropy"]), ("kl", ["figures", "kl"])):
        values = [_at(row, path) for row in rows]
        assert shown["stage-2"][name][1] == pytest.approx(values, rel=1e-6)
    assert shown["stage-1"]["loss"][0] == [1, 2]
    assert shown["stage-0"]["eval/e's/accuracy"][0] == [0, 1]
    assert shown["stage-2"]["eval/long/accuracy"][0] == [2, 3]


def test_the_entropy_is_estimated_from_what_was_sampled(watched: Path) -> None:
    values = [row["entropy"] for row in Log(watched).rows() if "entropy" in row]
    assert len(values) == 4
    assert all(0 < value < math.log(49152) for value in values)


def test_going_on_writes_no_step_twice(copied: Callable[[], Path]) -> None:
    run = copied()
    rows = Log(run).rows()
    for _ in range(2):
        board = Board(run, rows[:-3])
        for row in rows[-3:]:
            board.add(row)
        board.close()
    assert _shown(run)["stage-2"]["reward"][0] == [1, 2, 3]


def test_a_number_that_is_none_is_no_figure() -> None:
    row = {"stage": 0, "number": 4, "seconds": {"a": 1.0, "b": 2.0}, "excluded": ["x", "y"], "own": True}
    found = figures_of(row | {"loss": 0.5, "sample": {"question": "", "version": 3}})
    assert found == {
        "seconds/a": 1.0, "seconds/b": 2.0, "step_time": 3.0, "excluded": 2.0, "loss": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_cut_last_line_is_no_row(copied: Callable[[], Path], cut: int) -> None:
    log = Log(copied())
    rows = log.rows()
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    assert log.rows() == rows[:-1]
    log.keep(lambda _row: True)
    log.add({"number": 9})
    assert log.rows() == [*rows[:-1], {"number": 9}]


def test_a_line_that_is_none_is_named(copied: Callable[[], Path]) -> None:
    log = Log(copied())
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([lines[0], b'{"stage": \n', *lines[1:]]))
    with pytest.raises(SampanError, match=r"log\.jsonl: line 2 is no JSON"):
        log.rows()


def test_answers_of_a_test_are_kept_by_problem(watched: Path) -> None:
    for row in (row for row in Log(watched).rows() if "test" in row):
        kept = answers.kept(watched, row["stage"], row["step"], row["test"])
        assert len(kept) == row["problems"]
        mean = sum(each.reward for each in kept.values()) / len(kept)
        assert mean == pytest.approx(row["accuracy"])
        assert [each.answer for each in kept.values()][:3] == [s["answer"] for s in row["samples"]]
    first = answers.kept(watched, 0, 0, "e's")
    assert first.keys() == answers.kept(watched, 2, 3, "e's").keys()
    assert all(0 < each.tokens <= 16 for each in first.values())


def test_answers_behind_where_a_run_goes_on_are_taken_away(tmp_path: Path) -> None:
    one = Measured("t", "k", "q", "a", 1.0, 3)
    for stage, step in ((0, 0), (0, 10), (1, 5)):
        answers.keep(tmp_path, stage, step, [one])
    answers.remove_later(tmp_path, 0, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["tests-0-0.jsonl"]
    answers.keep(tmp_path, 0, 0, [Measured("u", "k", "q", "b", 0.0, 3)])
    assert answers.kept(tmp_path, 0, 0, "t") == {"k": one}
    assert answers.kept(tmp_path, 0, 0, "u")["k"].answer == "b"


def test_a_run_says_what_it_was_begun_with(watched: Path) -> None:
    run = read_run(watched)
    assert run.about.text == (watched.parent / "tiny.py").read_text()
    assert run.about.versions.keys() >= {"sampan", "python", "torch", "numpy", "reasoning-gym"}
    kept = {"processor", "kernels", "threads", "memory", "system", "gradients"}
    assert run.about.machine.keys() == kept
    task = GymTask("chain_sum", "\nGive only the answer.", min_terms=3, max_terms=3)
    (source,) = run.about.sources
    assert source == f"{task.name} ({key_of(task)})"
    assert source in (watched / "adapter" / "README.md").read_text()
    assert run.about.stages == (("samples", 1), ("sft", 2), ("grpo", 3))
    assert run.steps == (6, 6)
    assert run.about.ended is not None
    assert run.about.starts[0] < run.rows[0]["time"] < run.about.ended


def test_a_run_that_is_done_can_be_gone_on_with(copied: Callable[[], Path]) -> None:
    run = copied()
    before = Log(run).rows()
    recipe = run.parent / "tiny.py"
    recipe.write_text(read_run(run).about.text)
    assert main(["train", "pipeline", str(recipe), "--out", str(run), "--resume"]) == 0
    assert Log(run).rows() == before
    assert len(read_run(run).about.starts) == 2


def _at(row: Any, path: list[str]) -> float:
    for name in path:
        row = row[name]
    return float(row)


def _shown(run: Path) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Steps and values by stage and name, as TensorBoard reads them."""
    found = {}
    for folder in sorted((run / "tensorboard").iterdir()):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        found[folder.name] = {
            name: ([e.step for e in events.Scalars(name)], [e.value for e in events.Scalars(name)])
            for name in events.Tags()["scalars"]
        }
    return found


def test_samples_can_be_read_in_tensorboard(watched: Path) -> None:
    events = EventAccumulator(str(watched / "tensorboard" / "stage-2"))
    events.Reload()
    (text,) = events.Tensors("answers")[-1].tensor_proto.string_val
    row = [row for row in Log(watched).rows() if "sample" in row][-1]
    assert json.dumps(row["sample"]["question"].splitlines()[0])[1:-1] in text.decode()
