"""The table of counters that the processes of one app share: a file that all of them map into memory.

Theory of operation. The file holds slots, each the runs of one key under one limit (`appguard.rate` says what a run
is), 16 slots to a set. A key's keyed hash names its set and is its tag there; the key of the hash is random and stands
in the file's header, so nobody outside can choose addresses that fall into one set. A slot is

    tag, until, stale, others, count, time, opened, window, amount, burst, 10 older runs: count, time    (8 bytes each)

where `count` and `time` are the newest run, opened at `opened`. An older run counts if its time is before that, and the
newest if its time is not: so one word decides when the newest becomes an older one. With a burst the slot is a token
bucket, whose only state, the time it is full again, stands in place of `opened`. The first five are there to be quick:
whose slot it is, until when requests join the newest run and no other leaves, until when no other leaves, no less than
what the others come to, and the newest's count; what they say of others is worked out anew when a run opens or leaves.
Whoever reads or writes slots holds the lock (`table_lock`), which is free again when its holder dies, however it dies.
Every step of a write is one aligned word, and after every step the slot is valid, at worst without the request being
counted; a slot changes hands by losing its tags first and getting new ones last. So a process killed in the middle
leaves nothing to repair. Times are CLOCK_MONOTONIC, which all processes of one boot share; the header names the boot,
and a file of an earlier one is emptied.

The file is reserved in full when it is made (a page that a full disk cannot give would kill the process that touches
it) and is never shortened while it is mapped. It lies in a directory that nobody else may enter; what somebody else
made in its place is refused.
"""

import mmap
import os
import re
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from math import inf
from pathlib import Path
from struct import Struct

from appguard.limit import Hit
from appguard.rate import RUNS_PER_WINDOW, TOLERANCE, Left, Rate, tokens_left
from appguard.stores.table_lock import TableLock

SETS = 4096
WAYS = 16
OLDER_RUNS = Struct("Qd" * RUNS_PER_WINDOW)
SLOT = Struct(f"Q2d2Q3d2Q{'Qd' * RUNS_PER_WINDOW}")
TAG, UNTIL, STALE, OTHERS, COUNT, TIME, OPENED, WINDOW, AMOUNT, BURST, OLDER = range(11)  # places of words in a slot
SLOT_SIZE, WORDS = SLOT.size, SLOT.size // 8
HEADER = Struct("32s36s32s")  # what it is, boot, secret
RESETS = 16  # the place of a word, behind the header, that every reset by any process raises
TAGS_AT = 4096  # then one tag per slot, then one hash of a client per slot, then the slots
AMOUNT_MOST = 2**63
PLACES_MOST = 8192
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Place:
    """Where a key belongs: its tag, as bytes and as a number, the hash of its client, the first slot of its set.

    `slot` is where it was found last, which may be another key's by now; `numbers` and `seconds` are that slot's words.
    """

    __slots__ = ("client", "first", "number", "numbers", "seconds", "slot", "tag")

    slot: int
    numbers: "memoryview[int]"
    seconds: "memoryview[float]"

    def __init__(self, tag: bytes, client: int, first: int) -> None:
        self.tag = tag
        self.number = int.from_bytes(tag, sys.byteorder)
        self.client = client
        self.first = first


class CounterTable:
    """An open table. All but `place`, `words`, `lock`, `is_current` and `close` are for the holder of the lock."""

    def __init__(self, path: Path, file: int, sets: int) -> None:
        self.path = path
        self.lock = TableLock(file)
        self._sets = sets
        slots = sets * WAYS
        self._clients_at = TAGS_AT + 8 * slots
        self._slots_at = TAGS_AT + 16 * slots
        self.size = self._slots_at + SLOT_SIZE * slots
        self._places: dict[str, Place] = {}

    def map(self) -> "CounterTable":
        """Make the file a table of this boot if it is none, and map it; give this. Raise `OSError`."""
        boot, kind = BOOT.read_bytes().strip(), f"appguard-counters 5 {self._sets}".encode().ljust(32)
        header = os.pread(self.lock.file, HEADER.size, 0)
        if os.fstat(self.lock.file).st_size < self.size or not header.startswith(kind + boot):
            header = HEADER.pack(kind, boot, os.urandom(32))
            self._reserve()
            os.pwrite(self.lock.file, bytes(self._slots_at - TAGS_AT), TAGS_AT)
            os.pwrite(self.lock.file, header, 0)  # last: without it the next process begins again
        self._secret = HEADER.unpack(header)[2]
        self._map = mmap.mmap(self.lock.file, self.size)
        view = memoryview(self._map)
        self.words = view[:TAGS_AT].cast("Q")
        self._tags = view[TAGS_AT : self._clients_at].cast("Q")
        self._clients = view[self._clients_at : self._slots_at].cast("Q")
        self._numbers = view[self._slots_at :].cast("Q")
        self._seconds = view[self._slots_at :].cast("d")
        self.lock.join(self._map)
        return self

    def _reserve(self) -> None:
        try:
            os.posix_fallocate(self.lock.file, 0, self.size)
        except OSError:
            os.ftruncate(self.lock.file, 0)  # nobody has mapped what is not yet a table
            raise

    def is_current(self) -> bool:
        """Say whether other processes still find this file, and show cleaners of temporary files that it is used."""
        try:
            os.utime(self.lock.file)
            return _inode(self.path.lstat()) == _inode(os.fstat(self.lock.file))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; the map goes with its last user."""
        file, self.lock.file = self.lock.file, -1
        if file >= 0:
            with suppress(OSError):
                os.close(file)

    def __del__(self) -> None:
        self.close()

    def place(self, key: str) -> Place:
        """Give the place of a key, whose client is its first word."""
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACES_MOST:
                self._places.clear()
            digest = self._hash(key)
            tag = digest[:8] if any(digest[:8]) else b"\1" * 8  # nothing but zeros is an empty slot
            client = int.from_bytes(self._hash(key.partition(" ")[0])[:8], sys.byteorder)
            first = int.from_bytes(digest[8:], sys.byteorder) % self._sets * WAYS
            place = Place(tag, client, first)
            self._put(place, first)
            self._places[key] = place  # whole, whatever is raised meanwhile
        return place

    def _put(self, place: Place, slot: int) -> None:
        """Note where a key was found, or has been put."""
        words = slice(slot * WORDS, slot * WORDS + WORDS)
        place.slot, place.numbers, place.seconds = slot, self._numbers[words], self._seconds[words]

    def _hash(self, text: str) -> bytes:
        return blake2b(text.encode(errors="surrogatepass"), key=self._secret, digest_size=16).digest()

    def find(self, key: str) -> int:
        """Give the slot of a key, -1 if it has none."""
        place = self._places.get(key) or self.place(key)
        slot = place.slot
        return slot if self._tags[slot] == place.number else self._search(place)

    def _search(self, place: Place) -> int:
        at = TAGS_AT + 8 * place.first
        found = self._map.find(place.tag, at, at + 8 * WAYS)
        if found < 0:
            return -1
        if found % 8 == 0:
            slot = (found - TAGS_AT) // 8
        else:  # across two tags
            ways = range(place.first, place.first + WAYS)
            slot = next((slot for slot in ways if self._tags[slot] == place.number), -1)
        self._put(place, max(slot, place.first))
        return slot

    def _drop(self, slot: int) -> None:
        """Empty a slot."""
        self._numbers[slot * WORDS + TAG] = 0
        self._tags[slot] = 0

    def wait(self, slot: int, rate: Rate, now: float, cost: int = 1) -> float:
        """Give the seconds until a request of the slot's key is admitted; 0 if it is now."""
        if cost > rate.most:
            return rate.window  # never
        if rate.burst:
            full_at = self._seconds[slot * WORDS + OPENED]
            wait = max(full_at - now, 0.0) - (rate.burst - (cost or 1)) * (rate.window / rate.amount)
            return wait if wait > TOLERANCE else 0.0
        begin, numbers = slot * WORDS, self._numbers
        if numbers[begin + OTHERS] + numbers[begin + COUNT] + (cost or 1) <= rate.amount:  # even with what has left
            return 0.0
        runs = self._runs(slot, rate.window, now)
        over = sum(count for _, count in runs) + (cost or 1) - rate.amount
        return _wait_for(over, sorted(runs), rate.window, now) if over > 0 else 0.0

    def _runs(self, slot: int, window: float, now: float) -> Sequence[tuple[float, int]]:
        """Give the runs that have not left, the newest last if it is one."""
        begin = slot * WORDS
        opened, newest = self._seconds[begin + OPENED], self._seconds[begin + TIME]
        runs = [run for run in self._older(slot) if run[0] < opened and run[0] + window > now]
        if newest >= opened and newest + window > now:
            runs.append((newest, self._numbers[begin + COUNT]))
        return runs

    def _older(self, slot: int) -> Sequence[tuple[float, int]]:
        words = OLDER_RUNS.unpack_from(self._map, self._slots_at + SLOT_SIZE * slot + 8 * OLDER)
        return list(zip(words[1::2], words[::2], strict=True))

    def quickly(self, hit: Hit, now: float) -> Left | None:
        """Count one request, as most are: it joins the newest run, and no other leaves; None if it is another one."""
        place = self._places.get(hit.key)
        if place is None:
            return None
        numbers, seconds, rate, cost = place.numbers, place.seconds, hit.rate, hit.cost
        count = numbers[COUNT] + cost
        left = rate.amount - numbers[OTHERS] - count
        if left < 0 or now >= seconds[UNTIL] or numbers[TAG] != place.number or not cost:
            return None
        numbers[COUNT] = count  # and no `pack_into`, which clears both words before it writes one
        seconds[TIME] = now
        reset = seconds[STALE] - now
        return left, reset if reset < rate.window else rate.window

    def add(self, slot: int, rate: Rate, now: float, cost: int = 1) -> Left:
        """Count one request that is admitted; give what is left then."""
        window = rate.window
        if rate.burst:
            interval, opened = window / rate.amount, slot * WORDS + OPENED
            self._seconds[opened] = full_at = max(self._seconds[opened], now) + cost * interval
            return tokens_left(full_at - now, rate.burst, interval)
        stale, others, count = self._tidy(slot, window, now)
        self._numbers[slot * WORDS + COUNT] = count + cost
        self._seconds[slot * WORDS + TIME] = now
        return rate.amount - others - count - cost, min(stale - now, window)

    def _tidy(self, slot: int, window: float, now: float) -> tuple[float, int, int]:
        """Open a run if it is time, and work out what is kept to be quick; give `stale`, `others`, `count`.

        Nobody is quick with half of it: `until` is over, or the slot's own tag is missing.
        """
        seconds, numbers, begin = self._seconds, self._numbers, slot * WORDS
        opened, time, count = seconds[begin + OPENED], seconds[begin + TIME], numbers[begin + COUNT]
        older = [run if run[0] < opened else (-inf, 0) for run in self._older(slot)]
        oldest = older.index(min(older))
        if now - opened >= window / RUNS_PER_WINDOW and older[oldest][0] + window <= now:
            if time >= opened:
                older[oldest] = time, count
                numbers[begin + OLDER + 2 * oldest] = count
                seconds[begin + OLDER + 2 * oldest + 1] = time
            seconds[begin + OPENED] = opened = now
        others = [run for run in older if run[1] and run[0] + window > now]
        stale = min(others)[0] + window if others else inf
        numbers[begin + OTHERS] = of_others = sum(run[1] for run in others)
        if time < opened:  # after `others`, which with this is never too small
            numbers[begin + COUNT] = count = 0
            seconds[begin + TIME] = now
        seconds[begin + STALE] = stale
        seconds[begin + UNTIL] = min(stale, opened + window / RUNS_PER_WINDOW)
        numbers[begin + TAG] = self._tags[slot]
        return stale, of_others, count

    def left(self, slot: int, rate: Rate, now: float) -> Left:
        """Give what is left of a key."""
        if rate.burst:
            return tokens_left(self._seconds[slot * WORDS + OPENED] - now, rate.burst, rate.window / rate.amount)
        runs = [run for run in self._runs(slot, rate.window, now) if run[1]]
        reset = min(runs)[0] + rate.window - now if runs else 0.0
        return rate.amount - sum(count for _, count in runs), reset

    def give_back(self, slot: int, rate: Rate, at: float, now: float, cost: int) -> None:
        """Take out a request that was counted at `at`."""
        begin = slot * WORDS
        if rate.burst:
            interval = rate.window / rate.amount
            self._seconds[begin + OPENED] -= max(0.0, cost * interval - (now - at))
            return
        if now - at >= rate.window:
            return  # its run may be gone, and a later one must not pay for it
        runs = [run for run in self._runs(slot, inf, now) if run[0] >= at]
        if not runs:
            return
        time, count = min(runs)
        self._seconds[begin + UNTIL] = -inf
        is_newest = time >= self._seconds[begin + OPENED]
        word = COUNT if is_newest else OLDER + 2 * self._older(slot).index((time, count))
        self._numbers[begin + word] = count - min(cost, count)

    def take(self, place: Place, rate: Rate, now: float) -> int:
        """Give a key an empty slot, or that of the key whose runs leave first; -1 if all are over their limits."""
        slot = self._room(place.first, now)
        if slot >= 0:
            self._drop(slot)
            amount = min(rate.amount, AMOUNT_MOST)
            burst = min(rate.burst, AMOUNT_MOST)
            nothing = (0, -inf, -inf, 0, 0, -inf, -inf, rate.window, amount, burst, *(0, -inf) * RUNS_PER_WINDOW)
            SLOT.pack_into(self._map, self._slots_at + slot * SLOT_SIZE, *nothing)
            self._clients[slot] = place.client
            self._tags[slot] = place.number
            self._put(place, slot)
        return slot

    def _room(self, first: int, now: float) -> int:
        chosen, leaves = -1, inf
        for slot in range(first, first + WAYS):
            if not self._tags[slot]:
                return slot
            begin = slot * WORDS
            window, burst = self._seconds[begin + WINDOW], self._numbers[begin + BURST]
            rate = Rate("", self._numbers[begin + AMOUNT], window, burst)
            latest = max(self._seconds[begin + TIME], max(self._older(slot))[0])
            left = self._seconds[begin + OPENED] if burst else latest + window
            if left < leaves and self.wait(slot, rate, now) == 0.0:
                chosen, leaves = slot, left
        return chosen

    def forget(self, client: str) -> int:
        """Empty the slots of a client; give how often that was done."""
        wanted = self._hash(client)[:8]
        found = self._map.find(wanted, self._clients_at, self._slots_at)
        while found >= 0:
            if found % 8 == 0:
                self._drop((found - self._clients_at) // 8)
            found = self._map.find(wanted, found + 1, self._slots_at)
        self.words[RESETS] += 1
        return self.words[RESETS]


def _wait_for(over: int, runs: Sequence[tuple[float, int]], window: float, now: float) -> float:
    """Give the seconds until so many requests of the runs, oldest first, have left."""
    for last, count in runs:
        over -= count
        if over <= 0:
            return last + window - now
    return window


def open_table(app: str, directory: Path | None, patience: float, sets: int = SETS) -> CounterTable:
    """Open or make the table of an app, in this directory or in one of our own; raise `OSError`."""
    if sys.platform != "linux":
        raise OSError("a table that processes share needs Linux")
    name = f"{re.sub('[^A-Za-z0-9.-]', '_', app)[:40]}-{blake2b(app.encode(), digest_size=6).hexdigest()}.counters"
    error = OSError("no directory")
    for each in [directory] if directory else _own_directories():
        try:
            with _private_directory(each) as folder:
                file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as refusal:
            error = refusal
        else:
            return _mapped(CounterTable(each / name, file, sets), patience)
    raise error


def _mapped(table: CounterTable, patience: float) -> CounterTable:
    try:
        mapped = table.lock.do(patience, table.map)
        if mapped is None:
            raise OSError(f"{table.path}: another process holds its lock")
    except BaseException:  # also what a signal handler raises
        table.close()
        raise
    return mapped


def _own_directories() -> Sequence[Path]:
    """Give where a table may lie, best first: by the environment, which is the same in all workers of an app."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    in_temporary = Path(tempfile.gettempdir(), f"appguard-{os.geteuid()}")
    return [Path(runtime, "appguard"), in_temporary] if runtime.startswith("/") else [in_temporary]


@contextmanager
def _private_directory(path: Path) -> Generator[int]:
    """Open a directory that is ours and that nobody else may enter; make it if it is not there."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"{path} must be a directory of user {os.geteuid()} with mode 0700")
        yield folder
    finally:
        os.close(folder)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
