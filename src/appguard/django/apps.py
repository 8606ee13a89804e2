"""Registers AppGuard with Django: the signals it listens to and its system checks."""

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.checks import register

from appguard.django.checks import check_settings
from appguard.django.signals import note_login, note_login_failure


class AppGuardConfig(AppConfig):
    """The app `appguard.django`."""

    name = "appguard.django"
    label = "appguard"
    verbose_name = "AppGuard"

    def ready(self) -> None:
        """Listen to logins and check the settings."""
        user_login_failed.connect(note_login_failure, dispatch_uid="appguard")
        user_logged_in.connect(note_login, dispatch_uid="appguard")
        register(check_settings)
