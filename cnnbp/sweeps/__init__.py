"""What many runs are: the search, the leaderboard, and the progress of parallel jobs."""
