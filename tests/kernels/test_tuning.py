"""Choices from given times, and tunings kept on a disk that may say anything. No test takes a time."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import combinations, cycle
from pathlib import Path
from typing import Any

import pytest

from sampan.core.types import ModelFiles
from sampan.kernels.cpu import trial, tuning
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.tuning import Tuning
from sampan.kernels.formats import Form
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint

ROWS = tuning.DIRECT
CHOSEN = Tuning(threads=2, huge_pages=False, direct_rows=12, row_block=64, chunk_rows=128, draft_rows=0)
SUBJECT: dict[str, Any] = {
    "machine": tuning.machine_print("scalar"),
    "model": {"layers": 2, "tensors": {"Q4_1": 14}},
    "cache": "bf16",
    "threads": None,
}


def crossing(at: float) -> tuple[dict[int, float], dict[int, float]]:
    """Times of reading in place, which grow with the rows, and of unpacking first, which do not."""
    return {rows: float(rows) for rows in ROWS}, dict.fromkeys(ROWS, at)


@pytest.mark.parametrize(("at", "expected"), [(1.0, 1), (3.0, 2), (5.0, 4), (9.0, 8), (13.0, 12), (99.0, 16)])
def test_weights_are_read_in_place_up_to_the_crossover(at: float, expected: int) -> None:
    assert tuning.choose_direct_rows(*crossing(at)) == expected


def test_a_small_advantage_does_not_move_the_crossover() -> None:
    direct, unpacked = crossing(9.0)
    assert tuning.choose_direct_rows(direct | {12: 8.8, 16: 8.8}, unpacked) == 8
    assert tuning.choose_direct_rows(direct | {12: 8.5, 16: 8.5}, unpacked) == 16
    assert tuning.choose_direct_rows(direct, dict.fromkeys(ROWS, 7.9)) == 8
    assert tuning.choose_direct_rows({}, {}) == tuning.DEFAULT.direct_rows


def test_one_disturbed_time_does_not_move_the_crossover() -> None:
    direct, unpacked = crossing(9.0)
    for rows in ROWS[:-1]:
        assert tuning.choose_direct_rows(direct | {rows: 1000.0}, unpacked) in (6, 8)
        assert tuning.choose_direct_rows(direct, unpacked | {rows: 1000.0}) == 8


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({256: 1.0, 64: 0.5, 128: 0.9}, 64),
        ({256: 1.0, 64: 0.98, 128: 0.99, 512: 0.98}, 256),
        ({256: 1.0, 64: 2.0}, 256),
        ({}, 256),
    ],
)
def test_another_row_block_must_be_clearly_faster(times: dict[int, float], expected: int) -> None:
    assert tuning.choose_row_block(times) == expected


@pytest.mark.parametrize(
    ("times", "layers", "expected"),
    [
        ({128: 0.01, 256: 0.02, 512: 0.04}, 5, 512),
        ({128: 0.01, 256: 0.02, 512: 0.042}, 5, 256),  # the longest one is not as fast
        ({128: 0.01, 256: 0.022, 512: 0.044}, 5, 128),
        ({128: 0.05, 256: 0.1, 512: 0.2}, 3, 256),  # 0.6 s for the longest one
        ({128: 0.5, 256: 1.0, 512: 2.0}, 1, 128),
        ({128: 0.25, 256: 0.25, 512: 0.4}, 20, 512),
        ({}, 1, 512),
    ],
)
def test_the_longest_chunk_that_is_soon_done_is_taken(
    times: dict[int, float], layers: float, expected: int
) -> None:
    assert tuning.choose_chunk_rows(times, layers) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (dict.fromkeys((1, *ROWS), 1.0), 16),  # rows cost nothing: as many as there are
        ({1: 1.0, 2: 1.1, 4: 1.2, 6: 1.4, 8: 1.6, 12: 3.0, 16: 4.0}, 8),
        ({1: 1.0, 2: 1.2, 4: 1.5, 6: 3.0, 8: 4.0, 12: 6.0, 16: 8.0}, 4),
        ({rows: float(rows) for rows in (1, *ROWS)}, 0),  # each row costs a whole step
        ({1: 1.0, 2: 1.9, 4: 2.6, 6: 3.9, 8: 5.2, 12: 7.8, 16: 10.0}, 0),
        ({}, tuning.DEFAULT.draft_rows),
    ],
)
def test_drafts_fill_as_many_rows_as_pay(times: dict[int, float], expected: int) -> None:
    assert tuning.choose_draft_rows(times) == expected


def test_a_disturbed_single_row_does_not_make_drafts_look_cheap() -> None:
    times = {1: 50.0, 2: 2.0, 4: 5.0, 6: 7.5, 8: 10.0, 12: 15.0, 16: 20.0}
    assert tuning.choose_draft_rows(times) == 0


def test_half_of_the_threads_must_be_clearly_faster() -> None:
    assert tuning.choose_threads(8, {8: 1.0, 4: 0.5}, {8: 1.0, 4: 1.1}) == 4
    assert tuning.choose_threads(8, {8: 1.0, 4: 0.9}, {8: 1.0, 4: 1.8}) == 8
    assert tuning.choose_threads(8, {8: 1.0, 4: 0.98}, {8: 1.0, 4: 0.98}) == 8
    assert tuning.choose_threads(8, {}, {}) == 8


def test_half_of_the_threads_is_a_candidate_where_nobody_asked() -> None:
    assert tuning.thread_counts(None, 8) == (8, 4)
    assert tuning.thread_counts(None, 3) == (3,)
    assert tuning.thread_counts(8, 8) == (8,)


def test_huge_pages_stay_unless_clearly_slower() -> None:
    assert tuning.choose_huge_pages(10.0, 9.0)
    assert tuning.choose_huge_pages(10.0, 10.4)
    assert not tuning.choose_huge_pages(10.0, 10.6)


def test_candidates_take_turns_and_the_fastest_turn_counts() -> None:
    order: list[str] = []

    def step(name: str, times: Iterator[float]) -> float:
        order.append(name)
        return next(times)

    slow, fast = cycle([3.0, 9.0, 2.0]), cycle([8.0, 1.0, 8.0])
    clock = trial._Clock(0.001)
    steps = {"slow": lambda: step("slow", slow), "fast": lambda: step("fast", fast)}
    times = clock.compare(steps, 0.0)
    assert len(order) >= 6
    assert order == ["slow", "fast"] * (len(order) // 2)
    assert times == {"slow": 2.0, "fast": 1.0}


def test_what_takes_too_long_is_not_begun() -> None:
    clock = trial._Clock(0.5)
    assert clock.compare({1: lambda: pytest.fail("begun")}, clock.guess(512)) == {}


def file_of(home: Path) -> Path:
    (file,) = (home / "tuning").iterdir()
    return file


def test_a_tuning_comes_back_as_it_was(tmp_path: Path) -> None:
    assert tuning.read(tmp_path, SUBJECT, 2) is None
    tuning.write(tmp_path, SUBJECT, "tiny", CHOSEN)
    assert tuning.read(tmp_path, SUBJECT, 2) == CHOSEN
    assert file_of(tmp_path).suffix == ".json"
    tuning.write(tmp_path, SUBJECT, "tiny", replace(CHOSEN, draft_rows=8))
    assert tuning.read(tmp_path, SUBJECT, 2) == replace(CHOSEN, draft_rows=8)
    assert list(tuning.stored(tmp_path, SUBJECT["machine"])) == [
        ("tiny", "bf16", replace(CHOSEN, draft_rows=8))
    ]
    assert list(tuning.stored(tmp_path, tuning.machine_print("avx2"))) == []


@pytest.mark.parametrize(
    "other",
    [
        {"machine": tuning.machine_print("avx2")},
        {"machine": SUBJECT["machine"] | {"cores": 77}},
        {"machine": SUBJECT["machine"] | {"build": "another"}},
        {"model": SUBJECT["model"] | {"layers": 3}},
        {"model": {"layers": 2, "tensors": {"Q8_0": 14}}},
        {"cache": "int8"},
        {"threads": 2},
    ],
)
def test_another_machine_or_model_has_another_tuning(tmp_path: Path, other: dict[str, Any]) -> None:
    tuning.write(tmp_path, SUBJECT, "tiny", CHOSEN)
    assert tuning.read(tmp_path, SUBJECT | other, 2) is None
    tuning.write(tmp_path, SUBJECT | other, "tiny", replace(CHOSEN, row_block=512))
    assert tuning.read(tmp_path, SUBJECT, 2) == CHOSEN
    assert len(list((tmp_path / "tuning").iterdir())) == 2


def test_a_thread_count_that_is_not_to_be_had_here_is_not_taken(tmp_path: Path) -> None:
    tuning.write(tmp_path, SUBJECT, "tiny", replace(CHOSEN, threads=4))
    assert tuning.read(tmp_path, SUBJECT, 8) == replace(CHOSEN, threads=4)
    assert tuning.read(tmp_path, SUBJECT, 2) is None


def content(**values: object) -> bytes:
    """A whole file with other values."""
    return json.dumps({"name": "tiny", "tuning": asdict(CHOSEN) | values, "subject": SUBJECT}).encode()


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"\x00\xff\xfe" * 9,
        content()[:-30],
        b"[]",
        b"{}",
        b"null",
        b"[" * 100000,
        json.dumps({"name": "tiny", "tuning": asdict(CHOSEN), "subject": []}).encode(),
        json.dumps({"name": 1, "tuning": asdict(CHOSEN), "subject": SUBJECT}).encode(),
        json.dumps({"name": "tiny", "tuning": {"threads": 2}, "subject": SUBJECT}).encode(),
        json.dumps(
            {"name": "tiny", "tuning": asdict(CHOSEN), "subject": SUBJECT | {"cache": "int8"}}
        ).encode(),
        content(threads=0),
        content(threads=2.0),
        content(huge_pages=1),
        content(direct_rows=17),
        content(row_block=3),
        content(chunk_rows=10**9),
        content(draft_rows=-1),
        content(more=1),
    ],
)
def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path: Path, found: bytes) -> None:
    tuning.write(tmp_path, SUBJECT, "tiny", CHOSEN)
    file_of(tmp_path).write_bytes(found)
    assert tuning.read(tmp_path, SUBJECT, 2) is None
    tuning.write(tmp_path, SUBJECT, "tiny", CHOSEN)
    assert tuning.read(tmp_path, SUBJECT, 2) == CHOSEN


def test_a_place_that_cannot_be_read_or_written_is_no_error(tmp_path: Path) -> None:
    tuning.write(tmp_path, SUBJECT, "tiny", CHOSEN)
    file = file_of(tmp_path)
    file.unlink()
    file.mkdir()  # neither read nor replaced
    (file / "full").touch()
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for home in (tmp_path, blocked, Path("/proc/1/nowhere")):
        tuning.write(home, SUBJECT, "tiny", CHOSEN)
        assert tuning.read(home, SUBJECT, 2) is None
        assert list(tuning.stored(home, SUBJECT["machine"])) == []
    assert list((tmp_path / "tuning").iterdir()) == [file]


def test_the_fingerprint_names_what_matters(default_model: ModelFiles) -> None:
    with open_checkpoint(default_model) as checkpoint:
        plan = make_plan(graph_of(checkpoint.config), Layout(checkpoint), 512)
        one = tuning.fingerprint(plan, checkpoint, "scalar", "bf16", None)
        assert one == tuning.fingerprint(plan, checkpoint, "scalar", "bf16", None)
        assert json.loads(json.dumps(one)) == one
        assert tuning.fingerprint(plan, checkpoint, "scalar", "bf16", 1) != one
        assert tuning.fingerprint(plan, checkpoint, "scalar", "int8", None) != one
    assert one["machine"]["isa"] == "scalar"
    assert one["machine"]["processor"]
    assert one["model"]["matrices"] == {
        "49152 x 576 Q8_0": 1, "576 x 1536 Q4_1": 30, "576 x 576 Q4_1": 30,
        "960 x 576 Q4_1": 30, "3072 x 576 Q4_1": 30,
    }  # fmt: skip
    assert one["model"]["attention"] == {"9 / 3 x 64, 64": 30}


def test_the_fingerprint_tells_forms_apart(default_model: ModelFiles) -> None:
    found = []
    with open_checkpoint(default_model) as checkpoint:
        for form in (None, Form(4, 32, 8), Form(4, 64, 8), Form(8, 64, 128)):
            tensors = {
                name: replace(info, form=form if len(info.shape) == 2 else None)
                for name, info in checkpoint.tensors.items()
            }
            other = replace(checkpoint, tensors=tensors)
            plan = make_plan(graph_of(checkpoint.config), Layout(other), 512)
            found.append(tuning.fingerprint(plan, other, "scalar", "bf16", None)["model"])
    assert all(one != two for one, two in combinations(found, 2))
