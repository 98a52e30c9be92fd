"""`metrics.csv`: every logged value, for people and programs that do not read TensorBoard's files."""

import csv
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cnnbp.files import replacing
from cnnbp.runs.run_record import read_metrics


class CSVLogger(Logger):
    """Writes one row a step; a continued run takes up the rows before its checkpoint and replaces those after it."""

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self.rows = {int(row["step"]): row for row in read_metrics(self.path)}
        self.unsaved = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args, **kwargs) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        self.rows = {known: row for known, row in self.rows.items() if known <= step}
        self.rows.setdefault(step, {"step": step}).update(metrics)
        self.unsaved = True

    @rank_zero_only
    def save(self) -> None:
        if not self.unsaved:
            return
        columns = dict.fromkeys(column for row in self.rows.values() for column in row)
        with replacing(self.path) as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows.values())
        self.unsaved = False

    def finalize(self, status: str) -> None:
        self.save()
