"""CONTRIBUTING.md names every module and every script, and none that is gone."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "CONTRIBUTING.md").read_text()


def test_every_module_has_its_sentence() -> None:
    """The map a newcomer reads first is complete, and no road on it leads nowhere."""
    package = CHECKOUT / "src/appguard"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    described = set(re.findall(r"(?m)^\| `([\w/]+\.py)` \|", TEXT))
    families = {name for name in modules if name.endswith("__init__.py") and name != "cli/__init__.py"}
    assert described == modules - families


def test_every_script_has_its_sentence() -> None:
    """What there is to run is in the table of commands."""
    scripts = {path.name for path in (CHECKOUT / "scripts").iterdir() if not path.suffix and path.is_file()}
    assert set(re.findall(r"(?m)^\| `scripts/([\w-]+)", TEXT)) == scripts
