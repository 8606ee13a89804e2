"""What holds for every test: the lab for those that need it, no skip under CI, nothing left running."""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from tests.lab import in_lab, processes, wait_until

NO_SKIPS = bool(os.environ.get("CI") or os.environ.get("APPGUARD_NO_SKIPS"))

settings.register_profile("appguard", deadline=None)  # a busy machine is no failure
settings.load_profile("appguard")

for name in ("APPGUARD_CONFIG", "APPGUARD_STORE", "APPGUARD_EVENT_LOG", "APPGUARD_ENABLED", "PYTHONUNBUFFERED"):
    os.environ.pop(name, None)  # the developer's own settings, which would make tests differ from machine to machine


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that would touch this machine's network outside the lab."""
    if item.get_closest_marker("lab") and not in_lab():
        pytest.fail(
            "this test needs the lab: run it with scripts/test, or: scripts/lab .venv/bin/pytest", pytrace=False
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI count a skipped test as failed: a missing program must not look like a passed test."""
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole file that skips itself."""
    report = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail a test that leaves a process running in the lab, and end it, or the tests after it would fail as well."""
    if not in_lab():
        yield
        return
    before = processes()
    yield

    def left() -> dict[int, str]:
        return {pid: command for pid, command in processes().items() if pid not in before}

    try:
        wait_until(lambda: not left(), 2, lambda: f"left running: {', '.join(left().values())}")
    finally:
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def own_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Give each test, and every process it starts as whatever user, counters of `local://` that nobody else shares."""
    tmp_path_factory.getbasetemp()  # chosen now, it is not in what is removed below
    path = Path(tempfile.mkdtemp(prefix="appguard-test-"))
    path.chmod(0o1777)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """Give a directory that every user may enter, as `tmp_path` is not."""
    path = Path(tempfile.mkdtemp(prefix="appguard-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
