"""The run directory: its one reader, its one writer, its checkpoints and its CSV log."""
