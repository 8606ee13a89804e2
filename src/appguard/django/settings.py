"""The setting `APPGUARD`: a dictionary of the options in `appguard.config.AppOptions`."""

from collections.abc import Mapping
from typing import cast

from django.conf import settings

from appguard.config import AppConfig, app_config


def from_settings() -> AppConfig:
    """Give the app's settings; raise `ConfigError`."""
    return app_config(cast("Mapping[str, object]", getattr(settings, "APPGUARD", {})))
