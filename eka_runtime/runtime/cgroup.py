"""Control groups of one start, made before its namespaces and removed after its program.

Constraint: loaded by warm starts that have limits; imports as little as enter.py does. Out of
scope: finding out where groups can be made (limits.py).
"""

from __future__ import annotations

import posix

_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Group = tuple[str, tuple[tuple[str, str], ...]]


class Groups:
    """A group `name` in each place, with its settings written: file and value.

    A file that begins with `?` need not exist. Raises OSError, and leaves nothing then. All is done
    through descriptors, which work from inside the start's own namespaces, too.
    """

    def __init__(self, wanted: Iterable[Group], name: str) -> None:
        self._name = name
        self._places: list[int] = []
        self._own: list[int] = []
        try:
            for place, settings in wanted:
                self._make(place, settings)
        except OSError:
            self.remove()
            raise

    def _make(self, place: str, settings: Iterable[tuple[str, str]]) -> None:
        parent = posix.open(place, _DIRECTORY)
        posix.mkdir(self._name, 0o755, dir_fd=parent)
        self._places.append(parent)
        self._own.append(posix.open(self._name, _DIRECTORY, dir_fd=parent))
        for file, value in settings:
            self.set(-1, file, value)

    def set(self, index: int, file: str, value: str) -> None:
        try:
            fd = posix.open(
                file.lstrip("?"), posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=self._own[index]
            )
        except FileNotFoundError:
            if file.startswith("?"):
                return
            raise
        try:
            posix.write(fd, value.encode())
        finally:
            posix.close(fd)

    def enter(self) -> None:
        """Moves the calling process, and so what it starts from now on."""
        for index in range(len(self._own)):
            self.set(index, "cgroup.procs", "0")

    def remove(self) -> None:
        """What is still busy is left to the sweep of a later start."""
        for place in self._places:
            try:
                posix.rmdir(self._name, dir_fd=place)
            except OSError:
                continue
