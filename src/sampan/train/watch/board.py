"""A run for TensorBoard: event files that say what `log.jsonl` says, and each step once.

They are a copy: whoever goes on with a run has them written anew from the rows that are kept, so that no kill
leaves a step twice. Each stage is a run of its own in TensorBoard.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import time
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from sampan.train.watch.figures import figures_of, step_of

_FOLDER = "tensorboard"
_FILE = "events.out.tfevents.0.sampan"  # the middle is how TensorBoard knows such a file


class Board:
    """Of the run in `folder`, with the `rows` that it has already. Raises `OSError` where the disk does."""

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._folder = folder / _FOLDER
        self._files: dict[str, IO[bytes]] = {}
        for old in self._folder.glob(f"*/{_FILE}"):
            old.unlink()
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """The figures of a step or of a measurement, and what it shows of answers."""
        step = step_of(row)
        if step is None:
            return
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures_of(row).items()]
        text = _told(row)
        shown = text_pb("answers" if "test" not in row else f"eval/{row['test']}", text).value if text else ()
        summary = Summary(value=[*values, *shown])
        self._write(_stage(row), Event(wall_time=row.get("time", time()), step=step, summary=summary))

    def close(self) -> None:
        """No row comes any more."""
        for file in self._files.values():
            file.close()

    def _write(self, stage: str, event: Any) -> None:
        if stage not in self._files:
            place = self._folder / stage
            place.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a run can be killed at any time, and be looked at.
            self._files[stage] = (place / _FILE).open("wb", buffering=0)
            first = Event(wall_time=event.wall_time, file_version="brain.Event:2")
            RecordWriter(self._files[stage]).write(first.SerializeToString())
        RecordWriter(self._files[stage]).write(event.SerializeToString())


def _stage(row: Mapping[str, Any]) -> str:
    return f"stage-{row.get('stage', 0)}"


def _told(row: Mapping[str, Any]) -> str:
    """Questions and answers, as TensorBoard shows texts: blocks of code in Markdown."""
    if sample := row.get("sample"):
        pairs = zip(sample["rewards"], sample["answers"], strict=False)
        return "\n\n".join([_block(sample["question"]), *(f"{r:g}\n\n{_block(a)}" for r, a in pairs)])
    samples = row.get("samples", ())
    return "\n\n".join(f"{_block(each['question'])}\n\n{_block(each['answer'])}" for each in samples)


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
