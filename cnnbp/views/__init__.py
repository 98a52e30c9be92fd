"""What people look at: evaluation, predictions, explanations, exports and reports."""
