"""Filters: each turns one line into an event, or nothing. See `base.py` for what each must do."""
