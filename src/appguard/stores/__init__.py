"""Stores: places that offer counters and a ban set. See `base.py` for what each must do."""
