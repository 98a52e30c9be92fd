"""What is attached to the Trainer: one file a concern."""
