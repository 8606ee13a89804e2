"""The file source: which files it reads and which it refuses, how lines come out, and that nobody can hold it up."""

import asyncio
import os
import tracemalloc
from pathlib import Path

import pytest

from appguard.errors import StateError
from appguard.sources.base import LINE_MOST, Chunk
from appguard.sources.file import FileSource
from appguard.sources.generation import CHUNK_BYTES
from appguard.sources.pace import BYTES_FIRST, BYTES_SLOW
from tests.integration.reading import STRANGER, Kept, open_files, running
from tests.lab import has_user, wait_until

needs_users = pytest.mark.skipif(not has_user(STRANGER), reason="acts as another user")
NEVER = 3600.0


def append(path: Path, data: bytes) -> None:
    """Write to the end of a file."""
    with path.open("ab") as writer:
        writer.write(data)


def read_all(path: Path, expected: list[bytes]) -> Kept:
    """Read a file from its beginning until these lines are there, and no others."""
    kept = Kept()
    with running(FileSource("log", [str(path)], {}), kept):
        kept.wait_for(expected)
    return kept


def test_lines_are_whole_and_otherwise_untouched(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, NUL bytes and empty lines pass; only the line end, `\\n` or `\\r\\n`, is taken off."""
    log = tmp_path / "log"
    lines = [b"plain", b"\xff\xfe\x80 bytes", b"a \0 b", b"", b"  spaces ", b"\r inside", "umlaut \u00e4".encode()]
    log.write_bytes(b"\n".join(lines) + b"\r\nwindows\r\n")
    kept = read_all(log, [*lines, b"windows"])
    assert kept.origins() == {str(log)}
    assert {chunk.uid for chunk in kept.chunks} == {None}


def test_inotify_tells_at_once(tmp_path: Path) -> None:
    """With a poll once an hour, appended lines, a rotation, a new file and a mended one are read all the same."""
    log, late, closed = tmp_path / "a.log", tmp_path / "late.log", tmp_path / "closed.log"
    kept = Kept()
    log.write_bytes(b"1\n")
    closed.mkdir()
    source = FileSource("log", [str(log), str(late), str(closed), str(tmp_path / "*.jsonl")], {}, poll_every=NEVER)
    with running(source, kept) as run:
        kept.wait_for([b"1"])
        append(log, b"2\n")
        kept.wait_for([b"1", b"2"])
        log.rename(tmp_path / "a.log.1")
        log.write_bytes(b"3\n")
        kept.wait_for([b"1", b"2", b"3"])
        late.write_bytes(b"4\n")
        kept.wait_for([b"1", b"2", b"3", b"4"])
        (tmp_path / "new.jsonl").write_bytes(b"5\n")
        kept.wait_for([b"1", b"2", b"3", b"4", b"5"])
        run.wait_for_complaint("closed.log is not read: it is a directory")
        closed.rmdir()
        closed.write_bytes(b"6\n")
        kept.wait_for([b"1", b"2", b"3", b"4", b"5", b"6"])
        assert run.status().complaint == ""


def test_polling_finds_what_inotify_does_not_tell(tmp_path: Path) -> None:
    """A directory that appears later is found by the look once in a while, and then watched."""
    directory = tmp_path / "later" / "still"
    kept = Kept()
    patterns = [str(directory / "a.log"), str(tmp_path / "l*" / "*" / "b.log")]
    with running(FileSource("log", patterns, {}, poll_every=0.05), kept) as run:
        run.wait_for_complaint("a.log is not there")
        directory.mkdir(parents=True)
        (directory / "a.log").write_bytes(b"1\n")
        kept.wait_for([b"1"])
        (directory / "b.log").write_bytes(b"2\n")
        kept.wait_for([b"1", b"2"])
        (directory / "a.log").rename(tmp_path / "gone")
        directory.rename(tmp_path / "moved")
        directory.mkdir()
        (directory / "a.log").write_bytes(b"3\n")
        kept.wait_for([b"1", b"2", b"3"])


def test_globs_follow_logs_and_not_their_old_files(tmp_path: Path) -> None:
    """A glob that matches old and packed files too gives each line once, before and after a rotation and a restart."""
    kept = Kept()
    logs = {name: tmp_path / name for name in ("a.log", "b-1.log", "b.log", "c.log-1")}
    for name, log in logs.items():
        log.write_bytes(f"{name}\n".encode())
    for name in ("a.log.2", "a.log-20261101", "a-20261101.log", "a.log.3.gz", "z.log.gz", "b-1.log.old"):
        (tmp_path / name).write_bytes(b"old\n")
        os.utime(tmp_path / name, (0, 0))
    pattern = str(tmp_path / "*.log*")
    with running(FileSource("log", [pattern], {}, quiet_after=0.02, poll_every=0.02), kept) as run:
        wait_until(lambda: len(kept.lines()) >= 4, 10, "the lines of the logs")
        count = open_files()
        for log in list(logs.values())[:3]:
            log.rename(f"{log}.1")
            log.write_bytes(b"new\n")
        wait_until(lambda: len(kept.lines()) >= 7 and open_files() == count, 10, "the new lines, the old files closed")
        assert sorted(run.status().origins) == sorted(map(str, logs.values()))
    for log in logs.values():
        append(log, b"newest\n")
    with running(FileSource("log", [pattern], kept.positions), kept):
        wait_until(lambda: len(kept.lines()) >= 11, 10, "the newest lines")
    assert sorted(kept.lines()) == sorted([*(n.encode() for n in logs), *[b"new"] * 3, *[b"newest"] * 4])


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home directory of the user the daemon runs as."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "app.log").write_bytes(b"1\n")
    kept = Kept()
    with running(FileSource("log", ["~/app.log"], {}), kept) as run:
        kept.wait_for([b"1"])
        assert run.status().origins == (str(tmp_path / "app.log"),)


def test_one_file_by_two_names_is_read_once(tmp_path: Path) -> None:
    """A log and a symlink to it, both asked for, give each line once, also when a restart names them otherwise."""
    log, link = tmp_path / "m.log", tmp_path / "a.log"
    log.write_bytes(b"1\n")
    kept = Kept()
    with running(FileSource("log", [str(log)], {}), kept):
        kept.wait_for([b"1"])
    link.symlink_to(log)
    with running(FileSource("log", [str(tmp_path / "*.log")], kept.positions), kept) as run:
        run.wait_for_complaint(f"{link} is not read: it is the same file as {log}")
        append(log, b"2\n")
        kept.wait_for([b"1", b"2"])


def test_a_long_line_is_cut_and_costs_no_memory(tmp_path: Path) -> None:
    """Of a line of 1 MB the first bytes come out, the next line is whole, and memory stays at a few chunks."""
    log = tmp_path / "log"
    exact = b"e" * LINE_MOST
    log.write_bytes(b"before\n" + b"x" * 1_000_000 + b"\nbehind\n" + exact + b"\r\n" + b"y" * 20_000_000 + b"\nend\n")
    tracemalloc.start()
    try:
        read_all(log, [b"before", b"x" * LINE_MOST, b"behind", exact, b"y" * LINE_MOST, b"end"])
        assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_a_restart_inside_a_long_line(tmp_path: Path) -> None:
    """A reader stopped in the middle of a long line gives neither its beginning twice nor its rest as a line."""
    log = tmp_path / "log"
    log.write_bytes(b"before\n" + b"x" * 500_000)
    kept = read_all(log, [b"before", b"x" * LINE_MOST])
    append(log, b"x" * 500_000)
    with running(FileSource("log", [str(log)], kept.positions), kept):
        append(log, b'{"event": "forged"}\nbehind\n')
        kept.wait_for([b"before", b"x" * LINE_MOST, b"behind"])


def test_garbage_is_only_garbage(tmp_path: Path) -> None:
    """Random bytes are cut at line ends and bounds like any text, and the line behind them is read."""
    log = tmp_path / "log"
    garbage = os.urandom(3_000_000)
    log.write_bytes(garbage + b"\nbehind\n")
    kept = Kept()
    with running(FileSource("log", [str(log)], {}), kept):
        wait_until(lambda: kept.lines()[-1:] == [b"behind"], 10, "the last line")
    whole = [line.lstrip(b"\0").removesuffix(b"\r")[:LINE_MOST] for line in garbage.split(b"\n")]
    assert kept.lines() == [*whole, b"behind"]
    assert all(sum(map(len, chunk.lines)) <= CHUNK_BYTES for chunk in kept.chunks)


def test_turns_are_short_where_a_line_may_be_slow(tmp_path: Path) -> None:
    """The first chunk of a backlog is little, and none is much, however quick they were."""
    log = tmp_path / "log"
    lines = [b"line %d" % number for number in range(50_000)]
    log.write_bytes(b"\n".join(lines) + b"\n")
    kept = Kept()
    with running(FileSource("log", [str(log)], {}, may_be_slow=True), kept):
        kept.wait_for(lines)
    sizes = [sum(map(len, chunk.lines)) + len(chunk.lines) for chunk in kept.chunks]
    assert sizes[0] <= BYTES_FIRST < max(sizes) <= BYTES_SLOW


def test_a_backlog_starves_nobody(tmp_path: Path) -> None:
    """While a big file is read, another one gets its turn after every chunk, and the loop its chance."""
    big, small = tmp_path / "big.log", tmp_path / "small.log"
    big.write_bytes((b"x" * 99 + b"\n") * 100_000)
    small.write_bytes(b"".join(b"%d\n" % number for number in range(3)))
    turns: list[str] = []

    async def main() -> None:
        source = FileSource("log", [str(big), str(small)], {})
        ticks = 0

        def deliver(chunk: Chunk) -> None:
            if chunk.lines:
                turns.append(f"{Path(chunk.origin).name} {ticks}")

        task = asyncio.create_task(source.run(deliver))
        while len(turns) < 10_000_000 // CHUNK_BYTES:
            ticks += 1
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert turns[1].startswith("small")
    assert len(set(turns)) == len(turns)  # the loop went round between any two chunks


def test_an_error_of_the_receiver_loses_nothing(tmp_path: Path) -> None:
    """If a chunk cannot be taken, the source ends with that error, and run again gives the same chunk."""
    log = tmp_path / "log"
    log.write_bytes(b"1\n")
    kept = Kept()
    source = FileSource("log", [str(log)], {})

    def refuse(chunk: Chunk) -> None:
        if chunk.lines:
            raise StateError(f"no room for {len(chunk.lines)}")

    with pytest.raises(StateError, match="no room for 1"):
        asyncio.run(source.run(refuse))
    append(log, b"2\n")
    with running(source, kept):
        kept.wait_for([b"1", b"2"])
    append(log, b"3\n")
    with running(source, kept):
        kept.wait_for([b"1", b"2", b"3"])


def test_status_says_how_far_behind(tmp_path: Path) -> None:
    """Bytes not yet delivered are counted, an unfinished line too; nothing is open before and after."""
    log = tmp_path / "log"
    log.write_bytes(b"1\nunfinished")
    kept = Kept()
    before = open_files()
    source = FileSource("log", [str(log)], {})
    assert source.status().behind == 0
    with running(source, kept) as run:
        kept.wait_for([b"1"])
        wait_until(lambda: run.status().behind == len(b"unfinished"), 10, "the unfinished line")
    assert open_files() == before


def test_of_too_many_files_those_written_last_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a glob finds more files than are followed, a new one is read, and an old one that is written to again."""
    monkeypatch.setattr("appguard.sources.file.FILES_MOST", 3)
    dated = [tmp_path / f"app-{number}.log" for number in range(6)]
    for number, log in enumerate(dated[:5]):
        log.write_bytes(b"%d\n" % number)
        os.utime(log, (1000 + number, 1000 + number))
    kept = Kept()
    with running(FileSource("log", [str(tmp_path / "*.log")], {}, poll_every=0.02), kept) as run:
        kept.wait_for([b"2", b"3", b"4"])
        run.wait_for_complaint("5 files are too many: only the 3 written last are read; narrow the pattern")
        dated[5].write_bytes(b"new\n")
        kept.wait_for([b"2", b"3", b"4", b"new"])
        append(dated[2], b"again\n")
        kept.wait_for([b"2", b"3", b"4", b"new", b"again"])


def test_a_glob_that_matches_too_many_names_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more names than are looked at some are read, and the status says that it is not all."""
    monkeypatch.setattr("appguard.sources.file.NAMES_MOST", 2)
    for number in range(3):
        (tmp_path / f"app-{number}.log").write_bytes(b"line\n")
    kept = Kept()
    with running(FileSource("log", [str(tmp_path / "*.log")], {}, poll_every=0.02), kept) as run:
        run.wait_for_complaint(f"{tmp_path}/*.log matches more than 2 names: not all are seen; narrow it")
        kept.wait_for([b"line"] * 2)


def test_who_owns_a_directory_crowds_out_no_log_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files one directory gets, and however new they look, the log of another one is still read."""
    monkeypatch.setattr("appguard.sources.file.FILES_MOST", 3)
    monkeypatch.setattr("appguard.sources.file.NAMES_MOST", 5)
    mine, theirs = tmp_path / "mine", tmp_path / "a"
    mine.mkdir()
    theirs.mkdir()
    append(mine / "x.log", b"1\n")
    kept = Kept()
    with running(FileSource("log", [str(tmp_path / "*" / "*.log")], {}, poll_every=0.02), kept) as run:
        kept.wait_for([b"1"])
        for number in range(5):
            (theirs / f"{number}.log").touch()
            os.utime(theirs / f"{number}.log", (2**32, 2**32))
        wait_until(lambda: len(run.status().origins) == 3, 10, lambda: str(run.status()))
        append(mine / "x.log", b"2\n")
        kept.wait_for([b"1", b"2"])


def test_positions_of_logs_that_are_gone_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes new logs all the time, and moves them away, costs the daemon no memory; another log goes on."""
    monkeypatch.setattr("appguard.sources.file.FILES_MOST", 3)
    monkeypatch.setattr("appguard.sources.file.POSITIONS_MOST", 6)
    kept, lines = Kept(), list[bytes]()
    source = FileSource("log", [str(tmp_path / "*.log")], {}, poll_every=0.005)
    with running(source, kept):
        for number in range(30):
            for log in (tmp_path / "stays.log", tmp_path / f"{number}.log"):
                append(log, b"%d\n" % number)
                lines.append(b"%d" % number)
                kept.wait_for(lines)
            log.rename(tmp_path / f"{number}.gone")
    assert sum(f"/{number}.log" in str(vars(source)) for number in range(30)) < 15
