"""Runs a firewall's program to its end: found also where a daemon's PATH does not look, and never for ever."""

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from appguard.errors import FirewallError

SBIN = "/usr/sbin:/sbin"  # where such programs are, also for a PATH without it
END_PATIENCE = 2.0  # seconds to be gone when killed


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: its exit status, what it said on standard error (`words`) and on standard output."""

    status: int
    words: str
    output: str


async def run(command: Sequence[str], if_missing: str, patience: float, *, text: str = "") -> Done:
    """Run a command with `text` on its standard input.

    Raise `FirewallError` if it is missing (`if_missing` says what to do then), does not start, or does not end within
    `patience` seconds.
    """
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    program = shutil.which(command[0], path=path)
    if program is None:
        raise FirewallError(f"{command[0]} is not installed: {if_missing}")
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *command[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"LC_ALL": "C", "PATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise FirewallError(f"{program} does not start: {error.strerror}") from error
    try:
        async with asyncio.timeout(patience):
            output, words = await process.communicate(text.encode())
    except TimeoutError:
        raise FirewallError(f"{program} did not end within {patience:g} seconds") from None
    finally:
        if process.returncode is None:  # timed out or cancelled
            await _end(process)
    assert process.returncode is not None
    return Done(process.returncode, words.decode(errors="replace"), output.decode(errors="replace"))


async def _end(process: Process) -> None:
    """Kill a program and what it has started, which may hold its pipes; one of another user (sudo) is let go of."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(END_PATIENCE):
            await process.wait()
