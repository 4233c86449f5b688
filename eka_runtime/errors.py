"""The exception tree of eka: every failure a caller may want to tell apart, with its exit code.

The library raises these and never prints; `eka/output.py` shows them. Codes are listed in
`spec/exit-codes.md` and never re-used. 125-127 and 128+n keep the meaning container runtimes
and shells give them; a program's own status passes through untouched.

    EkaError 1
    ├── UsageError 2
    │   └── MissingExtra 2         an optional library is not installed
    ├── HeaderError 10             script header: syntax, unknown key, wrong type
    ├── ConfigError 11             eka.toml, environment variables
    ├── LockError 12               FILE.lock or atom.lock missing, stale or malformed
    ├── ManifestError 13           atom.toml, ekala.toml
    ├── ResolveError 14            no such atom or version; mirrors that disagree
    ├── AtomMismatch 15            an atom, lock or publication is not what it claims to be
    ├── GitError 16                git is missing, or failed
    ├── OptionError 17             an atom's configuration: unknown key, wrong type, no value
    ├── PathNotFound 20            store path is well formed but not in this store
    ├── FormatError 21             malformed hash, base32, name …
    │   ├── InvalidStorePath 21
    │   ├── NarError 31
    │   ├── ExportError 32
    │   ├── CastoreError 33        directory message, digest, entry
    │   │   └── DigestError 33
    │   └── ImageError 34          what is not an OCI image, or a broken one
    ├── StoreError 22
    │   ├── StoreFormatError 23    unknown or newer store format
    │   ├── StoreAccessError 24    disk full, read-only, permission
    │   ├── StoreCorrupt 25        content does not match its digest
    │   ├── HashMismatch 26        stated and computed hash differ
    │   └── UntrustedError 27      no trusted key has signed it
    ├── ServiceError 28            another store or service cannot be reached, or answers wrongly
    ├── ProfileError 40            bundles/*.toml
    ├── SpecError 41               config.json that is not a valid OCI runtime spec
    ├── GrantError 42              a grant that cannot be given
    ├── HostError 50               the host cannot do what is needed
    │   ├── RuntimeMissing 51      neither crun nor runc
    │   ├── UsernsForbidden 52
    │   ├── SandboxDegraded 53     --require-sandbox refused a lower tier
    │   └── ShellMissing 54        no static shell for /bin/sh
    ├── CwdError 55                working directory not accessible
    ├── BuildError 60              a derivation was not built
    │   ├── BuilderFailed 60       its builder failed, or left out an output
    │   │   └── DependencyFailed 60
    │   ├── BuildRefused 61        another system, a missing feature or input
    │   ├── OutputRejected 62      wrong hash, forbidden reference, strange file
    │   ├── NotDeterministic 63    --check found a difference
    │   ├── BuildTimeout 64        too slow, or silent for too long
    │   ├── LogLimitExceeded 65
    │   └── BuildCancelled 130
    ├── EvaluationError 66         the evaluator reported an error
    │   └── ImpureEvaluation 67    it was refused something outside its inputs
    ├── EvaluatorMissing 68        no evaluator, or one that cannot do what is asked
    ├── LaunchError 125            the runtime itself failed before the program started
    ├── NotExecutable 126
    └── InterpreterNotFound 127
"""

from __future__ import annotations


class EkaError(Exception):
    """Base of all; `hint` is one imperative sentence that says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EkaError):
    exit_code = 2


class MissingExtra(UsageError):
    exit_code = 2


class HeaderError(EkaError):
    exit_code = 10


class ConfigError(EkaError):
    exit_code = 11


class LockError(EkaError):
    exit_code = 12


class ManifestError(EkaError):
    exit_code = 13


class ResolveError(EkaError):
    exit_code = 14


class AtomMismatch(EkaError):
    exit_code = 15


class GitError(EkaError):
    exit_code = 16


class OptionError(EkaError):
    exit_code = 17


class PathNotFound(EkaError):
    exit_code = 20


class FormatError(EkaError):
    exit_code = 21


class InvalidStorePath(FormatError):
    exit_code = 21


class NarError(FormatError):
    exit_code = 31


class ExportError(FormatError):
    exit_code = 32


class CastoreError(FormatError):
    exit_code = 33


class ImageError(FormatError):
    exit_code = 34


class DigestError(CastoreError):
    exit_code = 33


class StoreError(EkaError):
    exit_code = 22


class StoreFormatError(StoreError):
    exit_code = 23


class StoreAccessError(StoreError):
    exit_code = 24


class StoreCorrupt(StoreError):
    exit_code = 25


class HashMismatch(StoreError):
    exit_code = 26


class UntrustedError(StoreError):
    exit_code = 27


class ServiceError(EkaError):
    exit_code = 28


class ProfileError(EkaError):
    exit_code = 40


class SpecError(EkaError):
    exit_code = 41


class GrantError(EkaError):
    exit_code = 42


class HostError(EkaError):
    exit_code = 50


class RuntimeMissing(HostError):
    exit_code = 51


class UsernsForbidden(HostError):
    exit_code = 52


class SandboxDegraded(HostError):
    exit_code = 53


class ShellMissing(HostError):
    exit_code = 54


class CwdError(EkaError):
    exit_code = 55


class EvaluationError(EkaError):
    exit_code = 66


class ImpureEvaluation(EvaluationError):
    exit_code = 67


class EvaluatorMissing(EkaError):
    exit_code = 68


class LaunchError(EkaError):
    exit_code = 125


class NotExecutable(EkaError):
    exit_code = 126


class InterpreterNotFound(EkaError):
    exit_code = 127


class BuildError(EkaError):
    """`status` is that of a `BuildResult` in the worker protocol."""

    exit_code = 60
    status = 9


class BuilderFailed(BuildError):
    exit_code = 60
    status = 3


class DependencyFailed(BuilderFailed):
    exit_code = 60
    status = 10


class BuildRefused(BuildError):
    exit_code = 61
    status = 4


class OutputRejected(BuildError):
    exit_code = 62
    status = 5


class NotDeterministic(BuildError):
    exit_code = 63
    status = 12


class BuildTimeout(BuildError):
    exit_code = 64
    status = 8


class LogLimitExceeded(BuildError):
    exit_code = 65
    status = 11


class BuildCancelled(BuildError):
    exit_code = 130
    status = 9
