"""Arguments and variables that are not UTF-8, which JSON cannot hold: /bin/sh makes them anew.

crun rejects a config.json with such bytes and runc alters them. So the bundle starts `/bin/sh -c`
with a script that rebuilds every byte with printf's octal escapes and then executes the program.
Works in POSIX shells: dash, busybox, bash. Constraint: imports nothing, like enter.py.

Known losses: shells do not pass on a variable whose name is none in their language (`A.B`), and
bash adds `_` and SHLVL whatever is done.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# $1 is the number of variables; words follow in pieces, ".text" the last of a word, "+text" any
# other. The _ that printf adds and ${v%_} takes away keeps $() from eating newlines.
_SCRIPT = """eka_e=$1; shift; eka_n=$#; eka_a=
while [ "$eka_n" -gt 0 ]; do
eka_v=$(printf '%b_' "${1#?}"); eka_a=$eka_a${eka_v%_}
case $1 in .*)
if [ "$eka_e" -gt 0 ]; then export "$eka_a"; eka_e=$((eka_e-1)); else set -- "$@" "$eka_a"; fi
eka_a= ;; esac
shift; eka_n=$((eka_n-1))
done
unset eka_e eka_n eka_a eka_v"""

_PIECE = 20_000  # bytes, of at most 5 characters each: the kernel's limit for a word is 128 KiB


def through_shell(args: Sequence[bytes], env: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Arguments and environment for config.json; ValueError for a variable no shell can set."""
    plain, odd = [], []
    for variable in env:
        try:
            plain.append(variable.decode())
        except UnicodeDecodeError:
            odd.append(_settable(variable))
    # Variables that shells add to the environment of what they execute.
    own = {"OLDPWD", "PWD", "SHLVL"} - {variable.partition("=")[0] for variable in plain}
    script = " ".join([_SCRIPT, *sorted(own)]) + '\nexec "$@"'
    pieces = [piece for word in (*odd, *args) for piece in _pieces(word)]
    return ["/bin/sh", "-c", script, "eka", str(len(odd)), *pieces], plain


def _settable(variable: bytes) -> bytes:
    name = variable.partition(b"=")[0].decode("ascii", "replace")
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(f"the variable `{name}` is not UTF-8, and no shell can set one so named")
    return variable


def _pieces(word: bytes) -> Iterator[str]:
    cuts = range(0, len(word), _PIECE) if word else (0,)
    for start in cuts:
        piece = word[start : start + _PIECE]
        last = start + _PIECE >= len(word)
        yield ("." if last else "+") + "".join(map(_octal, piece))


def _octal(byte: int) -> str:
    return chr(byte) if byte < 0x80 and byte != 0x5C else f"\\0{byte:03o}"
