"""Broken requests for the daemon: recorded ones, damaged byte by byte, and a loop that feeds them.

By hand, for as long as one likes: `python -m tests.unit.daemon.fuzz SECONDS [SEED]`. Each damaged
stream is one connection to one store, whose daemon builds, and fetches from a binary cache of what
was recorded. Nothing but NarError and ClientGone may come out, what is answered is bounded, memory
is too, and at the end the store verifies to the last byte.
"""

from __future__ import annotations

import io
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from struct import Struct

from eka_runtime.build.workbench import Workbench
from eka_runtime.cache.access import Access
from eka_runtime.cache.files import DirectoryFiles
from eka_runtime.cache.settings import CacheSettings
from eka_runtime.cache.supply import Supply
from eka_runtime.cache.upload import How, missing_in, prepare_cache, upload
from eka_runtime.daemon.peer import ClientGone
from eka_runtime.daemon.protocol import CLIENT_MAGIC, Op
from eka_runtime.daemon.session import Session
from eka_runtime.errors import NarError
from eka_runtime.nix.path import StorePath
from eka_runtime.nix.signing import SecretKey
from eka_runtime.nix.tokens import u64
from eka_runtime.store.store import Store
from eka_runtime.view.live import growing
from tests.stores import assert_clean
from tests.unit.castore.local import temporary
from tests.unit.daemon.benches import workbench
from tests.unit.daemon.client import Client, served
from tests.unit.daemon.recorded import recordings
from tests.unit.daemon.replayed import infos, seed

_U64 = Struct("<Q")
_INTERESTING = (0, 1, 7, 8, 255, 1 << 16, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_ANSWER_MAX = 64 << 20
_HELLO = u64(CLIENT_MAGIC) + u64(0x125) + u64(0) + u64(0)


def corpus() -> list[bytes]:
    """What clients of real Nix sent, without their greeting."""
    bodies = []
    for client, _ in recordings().values():
        # Features, where there are any, are a list of none.
        skip = 40 if client[8] >= 38 else 32
        bodies.append(client[skip:])
    return sorted(set(bodies))


def damaged(data: bytes, bodies: list[bytes], rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1) if made else 0
        aligned = at & ~7
        kind = rng.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[at : at + rng.choice((1, 7, 8, 64))]
        elif kind == 2:
            made[at:at] = rng.randbytes(rng.choice((1, 8, 40)))
        elif kind == 3:
            made[aligned : aligned + 8] = u64(rng.choice(_INTERESTING))
        elif kind == 4:
            made[aligned : aligned + 8] = u64(rng.choice(list(Op)))
        elif kind == 5:
            del made[at:]
        elif kind == 6:
            other = rng.choice(bodies)
            begin = rng.randrange(len(other) + 1) & ~7
            made[aligned:] = other[begin:]
        elif aligned + 8 <= len(made):
            number = _U64.unpack_from(made, aligned)[0] + rng.choice((-8, -1, 1, 8))
            made[aligned : aligned + 8] = u64(number % (1 << 64))
    return bytes(made)


def is_harmless(data: bytes) -> bool:
    """Whether it does not ask for links in the file system, which may be anywhere."""
    return u64(Op.AddPermRoot) not in data


def feed(
    root: Path,
    view: Callable[[Store], object],
    data: bytes,
    *,
    trusted: bool = True,
    workbench: Callable[[], Workbench] | None = None,
    supply: Supply | None = None,
) -> int:
    """The number of bytes that were answered. Raises what must not be raised."""
    answered = 0

    def write(piece: bytes) -> None:
        nonlocal answered
        answered += len(piece)
        if answered > _ANSWER_MAX:
            raise ClientGone

    session = Session(
        lambda: Store.open(root),
        io.BytesIO(_HELLO + data).read,
        write,
        trusted=trusted,
        view=view,  # type: ignore[arg-type]
        pausing=lambda: False,
        workbench=workbench,
        supply=supply,
    )
    with suppress(NarError, ClientGone):
        session.serve()
    return answered


def streams(seed: int) -> Iterator[bytes]:
    rng, bodies = random.Random(seed), corpus()
    while True:
        data = damaged(rng.choice(bodies), bodies, rng)
        if is_harmless(data):
            yield data


@contextmanager
def supplied(place: Path) -> Iterator[Supply]:
    """From a signed binary cache, in `place`, of what recordings have the contents of."""
    key = SecretKey("fuzz-1", bytes(32))
    files = DirectoryFiles(place / "cache")
    files.directory.mkdir()
    done: set[str] = set()
    with served(place / "far", place / "socket") as socket, Client(socket) as client:
        for path in infos():
            seed(client, path, done)
    with Store.open(place / "far") as far:
        prepare_cache(files)
        paths = [StorePath.parse(path) for path in done]
        upload(far, files, missing_in(files, far, paths), How("none", keys=(key,)))
    settings = CacheSettings((files.name,), (str(key.public),))
    with closing(Supply(settings, Access({}), None)) as supply:
        yield supply


def main(seconds: float, number: int) -> None:
    count, size, slowest = 0, 0, 0.0
    with temporary() as place, supplied(place) as supply:
        root = place / "store"
        with Store.open(root) as store:
            layout = store.layout
        with growing(layout) as view:
            end = time.monotonic() + seconds
            for data in streams(number):
                begin = time.monotonic()
                size += feed(
                    root,
                    view,
                    data,
                    trusted=bool(count % 4),
                    workbench=workbench,
                    supply=supply if count % 2 else None,
                )
                now = time.monotonic()
                slowest = max(slowest, now - begin)
                count += 1
                if now > end:
                    break
        with Store.open(root) as store:
            paths = store.paths.count()
        assert_clean(root)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count} connections, {size} bytes answered, slowest {slowest:.2f} s, {rss} MiB")
    print(f"{paths} paths; clean")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
