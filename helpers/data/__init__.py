"""Data sets, and what is to be forgotten in them: a Task."""
