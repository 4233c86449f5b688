"""`eka completion SHELL`: completion of `eka` and `eka-run` for bash, zsh and fish.

The scripts ask `eka` at each Tab, through a variable that click knows, so they need no renewal when
eka changes. `eka-run` is asked for by another variable: itself it reads no command line that has no
FILE, and what it takes is `eka.script.flags.FLAGS`. For zsh and fish the scripts are click's; for
bash they are our own, because click's loses what stands before a `=` or `:`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    add_completion_class,
    get_completion_class,
    shell_complete,
    split_arg_string,
)

from eka.completing import files, packages, variables
from eka.context import Context

if TYPE_CHECKING:
    from eka.script.flags import Flag

EKA, EKA_RUN = "_EKA_COMPLETE", "_EKA_RUN_COMPLETE"

# bash divides words at = and : as well; what it has as the last word is the end of the real one.
# bash 4.4 and later know nosort; whoever has an older one gets sorted words.
_BASH = """\
%(complete_func)s() {
    local IFS=$' \\t\\n' line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]}
    local word=${line##*[[:space:]]} before= type value
    [[ $current == [=:] ]] && current=
    [[ $word == *"$current" ]] && before=${word%%"$current"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("${value#"$before"}")
                [[ $value == */ ]] && compopt -o nospace ;;
        esac
    done < <(COMP_LINE=$line %(complete_var)s=bash_complete "${1%%-run}" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null ||
    complete -F %(complete_func)s %(prog_name)s
"""


class OwnBashComplete(BashComplete):
    """The words come as the line up to the cursor."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        if line[-1:].isspace() or not words:
            return words, ""
        return words[:-1], words[-1]

    @staticmethod
    def _check_version() -> None:
        """It would start bash to ask; the script copes with old ones."""


def register() -> None:
    add_completion_class(OwnBashComplete, "bash")


def answer_for_eka_run(instruction: str) -> int:
    """`instruction` is the value of `_EKA_RUN_COMPLETE`."""
    return shell_complete(eka_run(), {"obj": Context()}, "eka-run", EKA_RUN, instruction)


def eka_run() -> click.Command:
    """What `eka-run` takes, for completion only."""
    from eka.common_options import with_common_options
    from eka.script.flags import FLAGS

    command = click.Command(
        "eka-run",
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, shell_complete=files)],
        add_help_option=False,
        context_settings={"allow_interspersed_args": False},
    )
    # Those that `eka` has as well come first: a store given by one is the store that is asked.
    known = {name for option in with_common_options(command).params for name in option.opts}
    command.params += [_option(flag) for flag in FLAGS if flag.long not in known]
    return command


def _option(flag: Flag) -> click.Option:
    names = [flag.long, *([flag.short] if flag.short else [])]
    if not flag.metavar:
        return click.Option(names, is_flag=True, help=flag.help)
    values = {"packages": packages, "env": variables, "read": files, "write": files}
    return click.Option(names, multiple=True, help=flag.help, shell_complete=values.get(flag.field))


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def command(context: Context, shell: str) -> None:
    """Print the completion script of SHELL, for `eka` and `eka-run`.

    bash: `source <(eka completion bash)`; zsh: the same, after compinit; fish:
    `eka completion fish | source`.
    """
    register()
    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three
    # The scripts hold names only; what there is to complete is asked at each Tab.
    command = click.Command("eka")
    context.output.data(kind(command, {}, "eka", EKA).source())
    # click's scripts ask the very program that they complete.
    script = kind(command, {}, "eka-run", EKA_RUN).source()
    context.output.data(script.replace(" eka-run)", " eka)"))
