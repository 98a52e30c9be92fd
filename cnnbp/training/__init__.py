"""The LightningModule, what builds it, its optimizers and schedules, and how it is restored."""
