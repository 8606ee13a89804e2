"""Sources: where log lines come from. See `base.py` for what each must do."""
