"""`metrics.csv`: every logged value, for people and for programs other than TensorBoard."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cnnbp.files import replacing
from cnnbp.runs.run_record import read_metrics


class CSVLogger(Logger):
    """Writes one row a step.

    A continued run keeps the rows before its checkpoint and replaces those after it.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self.rows: dict[int, dict[str, Any]] = {}
        for row in read_metrics(self.path):
            self.rows[int(row["step"])] = row
        self.unsaved = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Leave hyperparameters out: `.hydra/` holds the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        for later in [known for known in self.rows if known > step]:
            del self.rows[later]
        self.rows.setdefault(step, {"step": step}).update(metrics)
        self.unsaved = True

    @rank_zero_only
    def save(self) -> None:
        if not self.unsaved:
            return
        columns: dict[str, None] = {}
        for row in self.rows.values():
            columns.update(dict.fromkeys(row))
        with replacing(self.path) as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows.values())
        self.unsaved = False

    def finalize(self, status: str) -> None:
        self.save()
