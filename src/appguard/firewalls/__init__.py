"""Firewalls: kinds of enforcement. See `base.py` for what each must do."""
