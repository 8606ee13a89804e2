"""The `appguard` command. Each verb imports what it runs, so that `appguard status` starts quickly.

Exit codes: 0 ok, 1 failed, not permitted or not found, 2 wrong usage or configuration, 3 refused for safety, 4 no
daemon reachable.
"""

import io
import sys

EXTRA = ("asyncore", "click", "hyperscan", "msgspec", "pyinotify", "regex", "starlette", "uvicorn")


def main() -> int:
    """Run the command; give its exit code where click has not exited by itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        from appguard.cli.verbs import appguard

        appguard.main(prog_name="appguard")
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            f"appguard: the package {error.name} is missing; install it with: pip install 'appguard-py[daemon]'",
            file=sys.stderr,
        )
    return 2
