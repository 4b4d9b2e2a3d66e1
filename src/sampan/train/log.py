"""A run's rows: `log.jsonl`. Whatever shows a run reads them and nothing else."""

from pathlib import Path

from sampan.core.rows import RowFile


class Log(RowFile):
    """Of the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "log.jsonl")
