"""Starts one bundle and stays until its program ends: what every start executes, cold or warm.

CONSTRAINT: most of a warm start is the interpreter's own, so this module imports only what
`python -ISE` has loaded already (sys, posix, _signal) or loads in a fraction of a millisecond
(_ctypes, _json). `os`, `signal` and `ctypes` cost 2, 3 and 5 ms; tests/unit/runtime/test_enter.py
pins the set. A plan is plain data (`Plan` in launch.py): everything in it was decided before.

Outer mode:

    launcher         own user and mount namespace; the process the caller started
    ├── server       of a fuse view, if there is one (serving.py)
    └── init         process 1 of a pid namespace: starts the runtime, reaps, passes signals on
        ├── runtime  `run --detach`, gone once the program runs
        └── program  in a user namespace nested in the launcher's

The kernel ends everything in the pid namespace with init, and init with the launcher, however that
one dies. The runtime's state lies on a tmpfs that only these processes see. In the direct and the
degraded mode the launcher's child is the runtime, which makes all namespaces and stays attached.

Out of scope: choosing a mode and adapting a bundle to it (launch.py), terminals (console.py).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix

from eka_runtime.runtime.isolate import Refused, isolate, make_directories

__all__ = ["Launch", "Refused", "enter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from eka_runtime.runtime.cgroup import Groups
    from eka_runtime.runtime.console import Console
    from eka_runtime.runtime.planned import Call, Plan

    Finished = Callable[[int], None]

# <linux/mount.h>, <linux/prctl.h>, <bits/siginfo-consts.h>
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
SI_QUEUE, SI_KERNEL = -1, 0x80

# The numbers under which the runtime finds its two files; `config.json` is a link to the first.
CONFIG_FD = 9
LOG_FD = 8

TIMED_OUT, FAILED, NOT_EXECUTABLE, NOT_FOUND = 124, 125, 126, 127
GRACE = 5.0  # seconds between SIGTERM and SIGKILL for a program whose time is over

SIGNALS = frozenset(range(1, 65)) - {
    *(_signal.SIGABRT, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGSEGV),
    *(_signal.SIGSYS, _signal.SIGTRAP, _signal.SIGKILL, _signal.SIGSTOP),
    *(_signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGPIPE, _signal.SIGXFSZ),
    *(32, 33),  # used by glibc itself
}
"""What the launcher waits for: SIGCHLD, and every signal that it passes on to the program."""

_TERMINAL_SIGNALS = frozenset(
    (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTSTP, _signal.SIGWINCH)
)


# crun sets a bundle's limits before it makes the mounts for which they were raised.
_LOWER_NOFILE = "ulimit -S -n %d; "


def enter(
    plan: Plan,
    args: Sequence[bytes],
    env: Sequence[bytes],
    finished: Finished | None = None,
) -> int:
    """Runs the planned bundle with `args` and `env` (b"NAME=value") and returns its exit status.

    That is the program's own, 128+n when signal n ended it, and 125-127 when it never ran; the
    reason is on stderr then. If the launcher was itself sent the signal that ended the program, it
    ends by that signal. Namespaces, signal masks and standard streams are not put back: the caller
    can only `_exit` with the status. `finished`, if given, is called once the program has ended,
    before this process may end by a signal, with its status, or -n for signal n. Raises Refused
    when the user namespace is denied, as it also is to a process with more than one thread.
    """
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        terminal = plan["terminal"] and _owns_terminal()
        config = _memory_file(render(plan, args, env, terminal))
        call = binding()
        launch = Launch(plan, call, config, terminal, finished)
        if plan["groups"]:
            launch.make_groups()
        try:
            if launch.outer:
                launch.server = isolate(plan, call)
            _link_config(plan["state"])
        except (OSError, Refused):
            launch.remove_groups()
            raise
        return launch.run()
    except (OSError, ValueError) as error:
        return _complain(error)


class Launch:
    """One start: the same object in the launcher and, after fork, in its child."""

    def __init__(
        self,
        plan: Plan,
        call: Call,
        config: int,
        terminal: bool,
        finished: Finished | None,
    ) -> None:
        self.plan = plan
        self.server = 0  # pid of the server of a fuse view
        self.finished = finished
        self.call = call
        self.config = config
        self.terminal = terminal
        self.log = _memory_file(b"")
        self.name = f"eka-{posix.getpid()}-{posix.urandom(4).hex()}"
        self.outer = plan["mode"] == "outer"
        # An attached runtime may read the terminal: then it must be in the foreground, too.
        self.in_foreground = not (self.outer or self._serves_terminal()) and posix.isatty(0)
        if plan["milliseconds"]:
            _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)  # an ignored one would be lost
        self.signals = frozenset(n for n in SIGNALS if _signal.getsignal(n) != _signal.SIG_IGN)
        self.seen: set[int] = set()
        self.console: Console | None = None
        self.mask: set[int] = set()
        self.child = 0
        self.status = 0
        self.groups: Groups | None = None
        self.timed_out = False

    def make_groups(self) -> None:
        from eka_runtime.runtime.cgroup import Groups

        try:
            self.groups = Groups(self.plan["groups"], self.name)
        except OSError as error:
            raise Refused(f"control group: {error.strerror}") from None

    def remove_groups(self) -> None:
        if self.groups:
            self.groups.remove()

    def run(self) -> int:
        if self._serves_terminal():
            from eka_runtime.runtime.console import Console

            # The state directory is this start's own in outer mode only.
            name = "tty" if self.outer else self.name[-8:]
            self.console = Console(f"{self.plan['state']}/{name}")
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self.signals)
        reading, writing = posix.pipe2(posix.O_CLOEXEC)
        if self.plan["milliseconds"]:
            # The kernel signals the launcher, which waits for signals anyway.
            _signal.setitimer(_signal.ITIMER_REAL, self.plan["milliseconds"] / 1000)
        self.child = posix.fork()
        if self.child == 0:
            posix.close(reading)
            self._become_child(writing)
        posix.close(writing)
        if self.console:
            self.console.run(self)
        else:
            self._wait()
        if self.server:
            _end(self.server)
        return self._result(posix.read(reading, 64))

    def _serves_terminal(self) -> bool:
        return self.terminal and self.plan["console"]

    def _wait(self) -> None:
        if not self.terminal:
            # Whoever has the other ends must notice when the program closes its own.
            null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
            for fd in (0, 1, 2):
                posix.dup2(null, fd)
        while True:
            info = _signal.sigwaitinfo(self.signals)
            if self.handle(info.si_signo, info.si_code):
                return

    def handle(self, signal: int, code: int) -> bool:
        """Acts on a signal (and its si_code) sent to the launcher; True once the child is gone."""
        if signal == _signal.SIGCHLD:
            pid, self.status = posix.waitpid(self.child, posix.WNOHANG)
            return pid != 0
        if signal == _signal.SIGALRM and code == SI_KERNEL and self.plan["milliseconds"]:
            self._time_is_over()
            return False
        self.seen.add(signal)
        by_terminal = code > 0 and signal in _TERMINAL_SIGNALS
        if self.console and signal == _signal.SIGWINCH:
            self.console.resize()
        elif self.outer and by_terminal:
            # The terminal signals a whole process group: SI_QUEUE tells init to do the same.
            self.call("sigqueue", self.child, signal, None)
        elif not (self.in_foreground and by_terminal) or signal == _signal.SIGHUP:
            posix.kill(self.child, signal)
        # else: the runtime got it, too. (Of a hang-up only the leader of a session is told.)
        if signal == _signal.SIGTSTP:
            self._stop()
        elif self.console and signal == _signal.SIGCONT:
            self.console.resume()
        return False

    def _time_is_over(self) -> None:
        """SIGTERM, and SIGKILL later to whatever is left; with the child, all of it ends."""
        posix.kill(self.child, _signal.SIGKILL if self.timed_out else _signal.SIGTERM)
        self.timed_out = True
        _signal.setitimer(_signal.ITIMER_REAL, GRACE)

    def suspend(self) -> None:
        """Stops the program and the launcher, until someone continues the latter."""
        self.handle(_signal.SIGTSTP, 0)

    def _stop(self) -> None:
        """Stops as the default action would have, and lets the program go on afterwards."""
        if self.console:
            self.console.suspend()
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGTSTP,))
        posix.kill(posix.getpid(), _signal.SIGTSTP)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTSTP,))
        if self.console:
            self.console.resume()
        posix.kill(self.child, _signal.SIGCONT)

    def _result(self, report: bytes) -> int:
        """From the child's wait status, or from init's report on the program: b"+s<status>"."""
        if self.timed_out:
            if not self.outer and posix.WIFSIGNALED(self.status):
                self._attached_result(-_signal.SIGKILL)
            self.remove_groups()
            return TIMED_OUT
        code = posix.waitstatus_to_exitcode(int(report[2:]) if report[2:] else self.status)
        if not self.outer:
            code = self._attached_result(code)
        self.remove_groups()
        if self.finished:
            self.finished(code)
        if -code in self.seen:
            self._die(-code)
        return code if code >= 0 else 128 - code

    def _attached_result(self, code: int) -> int:
        """What the status of an attached runtime says of the program; -n for signal n."""
        if code < 0:
            # Someone killed the runtime; the program and the state directory are still there.
            words = (*self.plan["runtime"], "delete", "--force", self.name)
            posix.waitpid(posix.posix_spawn(words[0], words, {}), 0)
        elif code == 1:
            return self._blame() or 1
        return 128 - code if code > 128 else code

    def _die(self, signal: int) -> None:
        self.call("prctl", PR_SET_DUMPABLE, 0)  # a core, if any, is the program's and is there
        _signal.signal(signal, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (signal,))
        posix.kill(posix.getpid(), signal)

    def _become_child(self, report: int) -> NoReturn:
        try:
            self.call("prctl", PR_SET_PDEATHSIG, _signal.SIGKILL)
            # If the launcher died before that line, there is no reader and this fails.
            posix.write(report, b"+")
            if self.plan["descriptors"]:
                _raise_nofile(self.plan["descriptors"])
            if self.groups:
                self.groups.enter()
            if self.outer:
                self._be_init(report)
            self._be_runtime()
        except (OSError, ValueError) as error:
            posix._exit(_complain(error))
        finally:
            posix._exit(FAILED)

    def _be_runtime(self) -> NoReturn:
        if not self.in_foreground:
            # The terminal's signals then reach the launcher alone, which passes each on once.
            posix.setpgid(0, 0)
        posix.dup2(self.log, LOG_FD)
        posix.dup2(self.config, CONFIG_FD)
        for signal in (_signal.SIGPIPE, _signal.SIGXFSZ):  # every Python ignores these
            _signal.signal(signal, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        words = self._words()
        posix.execve(words[0], words, {b"PATH": self.plan["path"]})

    def _be_init(self, report: int) -> NoReturn:
        posix.setpgid(0, 0)  # as in _be_runtime
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        self.call("mount", b"proc", b"/proc", b"proc", flags, self.plan["proc"])
        if posix.waitpid(self._spawn_runtime(), 0)[1]:
            posix._exit(self._blame() or FAILED)
        program = int(_read(self.plan["state"] + "/pid"))
        for index, file, value in self.plan["settle"]:
            if self.groups:
                self.groups.set(index, file, value)
        for fd in (0, 1, 2):
            posix.close(fd)
        while True:
            info = _signal.sigwaitinfo(self.signals)
            if info.si_signo == _signal.SIGCHLD:
                _reap(program, report)
            elif info.si_pid == 0:  # from outside the namespace
                _pass_on(program, info.si_signo, info.si_code == SI_QUEUE)

    def _spawn_runtime(self) -> int:
        words = self._words()
        return posix.posix_spawn(
            words[0],
            words,
            {b"PATH": self.plan["path"]},
            file_actions=(
                (posix.POSIX_SPAWN_DUP2, self.log, LOG_FD),
                (posix.POSIX_SPAWN_DUP2, self.config, CONFIG_FD),
            ),
            setsigmask=self.mask,
            setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),
        )

    def _words(self) -> tuple[str, ...]:
        state = self.plan["state"]
        words = [*self.plan["runtime"], f"--log=/proc/self/fd/{LOG_FD}", "run"]
        if self.outer:
            words += ["--detach", f"--pid-file={state}/pid"]
        if self.console:
            words.append(f"--console-socket={self.console.path}")
        return (*words, f"--bundle={state}", self.name)

    def _blame(self) -> int:
        """125-127 for the error that the runtime logged, 0 when it logged none."""
        lines = posix.pread(self.log, 1 << 20, 0).splitlines()
        # crun writes errors only; runc's lines have a level.
        log = b"".join(line for line in lines if b" level=" not in line or b" level=error" in line)
        if not log:
            return 0
        if b"executable file" in log and b"not found" in log:
            return NOT_FOUND
        if b"exec: " in log:  # runc
            return NOT_FOUND if b"no such file" in log else NOT_EXECUTABLE
        # crun, and a newer crun
        odd = b"open executable" in log or (b"the path `" in log and b"not a regular file" in log)
        return NOT_EXECUTABLE if odd else FAILED


def _reap(program: int, report: int) -> None:
    """Orphans of the bundle come to init; with the program itself, all is over."""
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return
        if pid == program:
            posix.write(report, b"s%d" % status)
            posix._exit(0)
        if pid == 0:
            return


def _pass_on(program: int, signal: int, group: bool) -> None:
    target = -program if group else program
    if signal in (_signal.SIGTSTP, _signal.SIGCONT):
        target = -1  # everything but init
    if signal == _signal.SIGTSTP:
        # The other does nothing to a process group that its session has no parent for.
        signal = _signal.SIGSTOP
    try:
        posix.kill(target, signal)
    except ProcessLookupError:
        return  # ended meanwhile


def render(plan: Plan, args: Sequence[bytes], env: Sequence[bytes], terminal: bool) -> bytes:
    """config.json of this start; ValueError for a variable that cannot be passed."""
    try:
        words, variables = [word.decode() for word in args], [word.decode() for word in env]
    except UnicodeDecodeError:
        from eka_runtime.runtime.exact import through_shell

        words, variables = through_shell(args, env)
    if plan["descriptors"] and plan["descriptors"] > _nofile()[0]:
        words = ["/bin/sh", "-c", _LOWER_NOFILE % _nofile()[0] + 'exec "$@"', "eka", *words]
    if plan["shell"]:
        words = ["/bin/sh", "-c", plan["shell"] + 'exec "$@"', "eka", *words]
    holes = {
        "args": ",".join(map(_quote, (*plan["init"], *words))),
        "env": ",".join(map(_quote, variables)),
        "terminal": _console_size() if terminal else "false",
        "limits": _limits(plan["rlimits"], plan["descriptors"]) if plan["rlimits"] else "",
    }
    return b"".join(
        piece if isinstance(piece, bytes) else holes[piece].encode() for piece in plan["template"]
    )


def _quote(text: str) -> str:
    """A JSON string; most words need neither escapes nor, so, the module that makes them."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)


def _console_size() -> str:
    columns, lines = posix.get_terminal_size(0)
    return f'true,"consoleSize":{{"height":{lines},"width":{columns}}}'


def _nofile() -> tuple[int, int]:
    return _own_limit("RLIMIT_NOFILE")


def _own_limit(name: str) -> tuple[int, int]:
    import resource

    soft, hard = (limit % (1 << 64) for limit in resource.getrlimit(getattr(resource, name)))
    return soft, hard


def _limits(wanted: Sequence[tuple[str, int, int]], descriptors: int) -> str:
    """Never above the caller's own, which nobody may raise, but for what the runtime needs: runc
    has them in force before it needs it. The program's shell lowers that again."""
    found = []
    for name, soft, hard in wanted:
        own = _own_limit(name)
        raised = name == "RLIMIT_NOFILE" and soft > own[0]
        least = min(descriptors, own[1]) if raised else 0
        soft, hard = max(min(soft, own[0]), least), min(hard, own[1])
        found.append(f'{{"type":"{name}","soft":{soft},"hard":{hard}}}')
    return ",".join(found)


def _raise_nofile(wanted: int) -> None:
    from resource import RLIMIT_NOFILE, setrlimit

    soft, hard = _nofile()
    if soft < wanted:
        setrlimit(RLIMIT_NOFILE, (min(wanted, hard), hard if hard < 1 << 63 else -1))


def _owns_terminal() -> bool:
    """All three streams are terminals, and the launcher is not in its background."""
    if not (posix.isatty(0) and posix.isatty(1) and posix.isatty(2)):
        return False
    try:
        return posix.tcgetpgrp(0) == posix.getpgrp()
    except OSError:
        return True  # a terminal, but not the one that controls this session


def _end(server: int) -> None:
    """It would end with the launcher in any case; whoever waits for us need not wait for it."""
    posix.kill(server, _signal.SIGKILL)
    posix.waitpid(server, 0)


def _link_config(state: str) -> None:
    """The state directory is the bundle directory, too: both runtimes open config.json there."""
    make_directories(state)
    try:
        posix.symlink(f"/proc/self/fd/{CONFIG_FD}", state + "/config.json")
    except FileExistsError:
        return


def _memory_file(content: bytes) -> int:
    fd = posix.memfd_create("eka")
    while fd <= 2 or fd in (CONFIG_FD, LOG_FD):
        fd = posix.dup(fd)
    while content:
        content = content[posix.write(fd, content) :]
    return fd


def _read(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    data = posix.read(fd, 4096)
    posix.close(fd)
    return data


def _complain(error: OSError | ValueError) -> int:
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        text += "\n\nhint: run `eka doctor` to see what this host allows"
    posix.write(2, f"error: cannot start the bundle: {text}\n".encode(errors="replace"))
    return FAILED


def binding() -> Call:
    """call(name, *arguments) calls libc's function `name` and raises OSError from its errno.

    Straight from _ctypes, the tenth part of importing ctypes. Arguments: int, bytes, None.
    """
    from _ctypes import CFuncPtr, _SimpleCData, dlopen, dlsym, get_errno

    class c_int(_SimpleCData):  # type: ignore[type-arg]
        _type_ = "i"

    class Function(CFuncPtr):
        _flags_ = 1 | 8  # FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    libc = dlopen(None, 0)  # type: ignore[arg-type]

    def call(name: str, *arguments: int | bytes | None) -> int:
        result: int = Function(dlsym(libc, name))(*arguments)
        if result < 0:
            code = get_errno()
            paths = [a for a in arguments[1:2] if isinstance(a, bytes)]  # mount's target
            what = b" ".join([name.encode(), *paths]).decode(errors="replace")
            raise OSError(code, posix.strerror(code), what)
        return result

    return call
