"""What README.md tells a user to write works as it stands there."""

import re
from pathlib import Path

from fastapi import FastAPI
from flask import Flask

from appguard import AppGuard
from appguard.config import daemon_config
from appguard.wsgi import AppGuard as WsgiAppGuard

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Give the code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_python_block_protects_its_app() -> None:
    """Each block is run with the app it speaks of, and the app is protected then."""
    for block in blocks("python"):
        names: dict[str, object] = {
            "app": Flask("shop") if "appguard.flask" in block else FastAPI(),
            "AppGuard": AppGuard,
        }
        exec(compile(block, "README.md", "exec"), names)
        app = names["app"]
        if isinstance(app, Flask):
            assert isinstance(app.wsgi_app, WsgiAppGuard)
        elif "MIDDLEWARE" in names:
            assert names["MIDDLEWARE"] == ["appguard.django.AppGuardMiddleware", ...]
        else:
            assert isinstance(app, FastAPI)
            (added,) = app.user_middleware
            assert getattr(added.cls, "__name__", "") == "AppGuard"
    assert len(blocks("python")) == 5


def test_every_settings_block_is_accepted(tmp_path: Path) -> None:
    """Each block is a whole file of settings."""
    for block in blocks("toml"):
        (tmp_path / "appguard.toml").write_text(block)
        config = daemon_config(tmp_path / "appguard.toml")
        assert config.jails or config.firewall


def test_every_script_exists() -> None:
    """The commands a user is told to run are there."""
    root = Path(__file__).parents[2]
    named = re.findall(r"(?m)^    (scripts/\w+)", README)
    assert named == ["scripts/demo", "scripts/test"]
    assert all((root / name).stat().st_mode & 0o111 for name in named)
