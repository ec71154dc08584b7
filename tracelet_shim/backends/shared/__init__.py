"""What three trackers or more need: each idea once, small, and without any SDK."""
