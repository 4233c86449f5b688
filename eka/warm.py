"""The warm path of eka-run: from the second start on, a script costs little more than its runtime.

A first start leaves a launch record: everything the runtime needs, and everything that must still
be true for it to be valid. This module finds the record, checks each of those facts, and starts the
bundle. Of a script that states its packages only what it states is one of those facts: the rest may
change from start to start. Whatever is missing, changed or merely odd sends the whole command line
to `eka.run`, which starts from nothing; so a record can only ever be unused, not wrong.

CONSTRAINT: this runs before `site`, in an interpreter started with -ISE. It imports nothing beyond
what that has loaded already, `marshal`, `_blake2`, `fcntl` and `eka_runtime.runtime.enter`
(tests/cli/test_warm.py pins the set): `os` costs 2 ms; json, re, typing, pathlib and
subprocess as much each as the container runtime. No database is opened and nothing is parsed.

    $XDG_CACHE_HOME/eka/launch/<key>    one record, marshal of a dict, mode 0600
    key = BLAKE2b of: format, working directory, file, flags, and EKA_* XDG_* HOME PATH as they are

Out of scope: deciding anything. Records are written by `eka.record`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import marshal
import posix
import sys
from _blake2 import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from eka_runtime.runtime.enter import Finished

    Record = dict[str, Any]

FORMAT = b"eka launch record 4"
WHOLE_CONTENT = 1 << 20
"""Scripts up to this size are compared by content, larger files by inode, size and times."""
HEAD_LIMIT = 80 << 10
"""Nothing behind it in a script is a header (`eka/script/header.py`)."""

FLAGS_WITH_VALUE = frozenset(
    (
        b"-p",
        b"--package",
        b"-i",
        b"--interpreter",
        b"--read",
        b"--write",
        b"--env",
        b"--device",
        b"--home",
        b"--limit",
        b"--network",
        b"--store",
        b"--view",
    )
)
FLAGS_WITHOUT_VALUE = frozenset(
    (
        b"--net",
        b"--nesting",
        b"--locked",
        b"--record",
        b"--require-sandbox",
        b"-q",
        b"--quiet",
    )
)
"""Flags a record may depend on; any other flag (--explain, --keep, …) takes the cold path."""


def main() -> NoReturn:
    """Starts `eka-run …`; sys.argv[1] is where this package was found."""
    die_of_interrupts()
    argv = as_bytes(sys.argv[2:])
    line = split(argv)
    if line is not None:
        flags, file, arguments = line
        record = load(flags, file)
        if record is not None:
            from eka_runtime.runtime.enter import Refused

            for note in record["notes"]:
                warn(note)

            try:
                status = start(record, arguments)
            except Refused:
                # What an earlier probe found holds no longer; the cold path probes again.
                cold(argv)
            posix._exit(status)
    cold(argv)


def die_of_interrupts() -> None:
    """No traceback before the bundle starts."""
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def as_bytes(words: list[str]) -> list[bytes]:
    encoding = sys.getfilesystemencoding()
    return [word.encode(encoding, "surrogateescape") for word in words]


def warn(note: bytes) -> None:
    """As `eka.output` does; who has closed his stderr learns nothing."""
    paint = posix.isatty(2) and not posix.environ.get(b"NO_COLOR")
    word = b"\x1b[1;33mwarning\x1b[0m" if paint else b"warning"
    try:
        posix.write(2, word + b": " + note + b"\n")
    except OSError:
        return


def cold(argv: list[bytes]) -> NoReturn:
    """Hands over to the whole program; -P, because the working directory may be a stranger's."""
    python = sys.executable.encode()
    posix.execv(python, [python, b"-P", b"-m", b"eka.run", *argv])


def start(launch: Record, arguments: list[bytes], ended: Finished | None = None) -> int:
    """Runs a launch and returns its status, for `_exit`. Raises `enter.Refused`.

    `ended` is called once the program has; whoever was told to die of a signal does not return.
    """
    from eka_runtime.runtime.enter import enter

    names = launch["pass"]
    if any(map(posix.isatty, (0, 1, 2))):
        names = names + launch["pass_on_terminal"]
    passed = _passed(names, launch["env"])
    # A passed variable takes the place of one that the bundle sets: programs see the first.
    stated = [text for text in launch["env"] if text.partition(b"=")[0] not in passed]
    variables = [name + b"=" + value for name, value in passed.items()]
    finished = [ended] if ended else []
    if "ledger" in launch:
        from eka.ledger import begin

        if noted := begin(*launch["ledger"]):
            finished.append(noted)
    words = [*launch["args"], *arguments]

    def tell(code: int) -> None:
        for one in finished:
            one(code)

    return enter(launch["plan"], words, [*stated, *variables], tell if finished else None)


def _passed(names: list[bytes], stated: list[bytes]) -> dict[bytes, bytes]:
    """The caller's variables of these names; `NAME*` are all that begin so and are not stated."""
    environ = posix.environ
    patterns = tuple(name[:-1] for name in names if name.endswith(b"*"))
    found = {name: environ[name] for name in names if name in environ}
    if patterns:
        own = {text.partition(b"=")[0] for text in stated}
        more = (name for name in environ if name.startswith(patterns) and name not in own)
        found |= {name: environ[name] for name in more}
    return found


def split(argv: list[bytes]) -> tuple[list[bytes], bytes, list[bytes]] | None:
    """(flags, file, arguments) of a command line, None when it needs the cold path."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if word in FLAGS_WITH_VALUE:
            index += 2
        elif word in FLAGS_WITHOUT_VALUE:
            index += 1
        elif word.startswith(b"-") or not word:
            return None
        else:
            return argv[:index], word, argv[index + 1 :]
    return None


def load(flags: list[bytes], file: bytes) -> Record | None:
    """The valid record of this start, or None."""
    try:
        record: Record = marshal.loads(read_own(record_file(flags, file)))
        # First of all: what is found to be there has to stay there while the program runs.
        hold(record["bundle"])
        return record if still_true(record, file) else None
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None


def hold(bundle: bytes) -> int:
    """Keeps a cached bundle and its closure from being collected until this process ends.

    Raises OSError when it is gone, or is being removed.
    """
    descriptor = posix.open(bundle, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    posix.utime(descriptor)  # so that a collection of what is old sees that this is not
    return descriptor


def read_own(file: bytes) -> bytes:
    """Raises OSError, and ValueError for a file that somebody else could have written."""
    with open(file, "rb", buffering=0) as stream:
        status = posix.fstat(stream.fileno())
        # Under sudo, HOME may be another user's: nothing of his is executed.
        if status.st_uid != posix.geteuid() or status.st_mode & 0o022:
            raise ValueError("not a record of this user")
        return stream.read()


def record_file(flags: list[bytes], file: bytes) -> bytes:
    """Raises OSError without a working directory or file, KeyError without a home."""
    environ = posix.environ
    cache = environ.get(b"XDG_CACHE_HOME", b"")
    if not cache.startswith(b"/"):
        cache = environ[b"HOME"] + b"/.cache"
    shaping = [name + b"=" + value for name, value in environ.items() if shapes(name)]
    words = [FORMAT, b"%d %d %o" % (sys.hexversion, posix.geteuid(), umask()), posix.getcwdb()]
    words += [file, real(file), *flags, b"", *sorted(shaping)]
    # Words cannot hold NUL: they come from argv, environ and the kernel.
    return cache + b"/eka/launch/" + blake2b(b"\0".join(words), digest_size=20).hexdigest().encode()


def umask() -> int:
    """The caller's, which can only be asked for by setting it."""
    mask = posix.umask(0o077)
    posix.umask(mask)
    return mask


def shapes(name: bytes) -> bool:
    return name in (b"HOME", b"PATH") or name.startswith((b"EKA_", b"XDG_"))


def still_true(record: Record, file: bytes) -> bool:
    """Whether all that shaped the record is as it was."""
    return (
        record["format"] == FORMAT
        and unchanged(record)
        and record["script"] is not None
        and (fingerprint(file) if record["said"] is None else statement(file, record["said"]))
        == record["script"]
    )


def unchanged(record: Record) -> bool:
    """Whether all that a record depends on, but a script, is as it was. Raises OSError."""
    return (
        all(stamp(path) == then for path, then in record["stamps"])
        and all(real(path) == place for path, place in record["places"])
        and all(posix.readlink(link) == target for link, target in record["links"])
        and all(map(exists, record["present"]))
        and all(content(path) == then for path, then in record["contents"])
    )


def stamp(path: bytes) -> tuple[int, ...] | None:
    """What changes when a file does; None when it is absent, which is a fact to keep too."""
    try:
        status = posix.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def content(path: bytes) -> bytes | None:
    """Of a small file of the kernel's, whose times tell nothing."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read(4096)
    except OSError:
        return None


def exists(path: bytes) -> bool:
    try:
        posix.lstat(path)
    except OSError:
        return False
    return True


def real(path: bytes) -> bytes:
    """realpath(3), by asking the kernel; Python's own is in `os`. Raises OSError."""
    descriptor = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    try:
        return posix.readlink(b"/proc/self/fd/%d" % descriptor)
    finally:
        posix.close(descriptor)


def fingerprint(file: bytes) -> bytes | tuple[int, ...] | None:
    """Identifies a script's content; None if it is no regular file, which is never recorded."""
    status = posix.stat(file)
    if status.st_mode & 0o170000 != 0o100000:
        return None
    if status.st_size > WHOLE_CONTENT:
        return stamp(file)
    with open(file, "rb", buffering=0) as stream:
        return blake2b(stream.read(WHOLE_CONTENT + 1), digest_size=32).digest()


def statement(file: bytes, size: int) -> bytes | None:
    """Identifies what a script says of itself in its first `size` bytes; None if it may say more.

    A program that is worked on need not start cold after every change of what it does.
    """
    if posix.stat(file).st_mode & 0o170000 != 0o100000:
        return None
    with open(file, "rb", buffering=0) as stream:
        head = stream.read(HEAD_LIMIT)
    rest = head[size:]
    # Further lines of flags, and another block.
    if rest.startswith(b"#") or b"/// eka" in rest:
        return None
    return blake2b(head[:size], digest_size=32).digest()
