"""purejaxppo completion: the script that completes commands, options and names in a shell."""

import argparse

from purejaxppo.cli.parser import Command, Parser, option
from purejaxppo.envs import env_names
from purejaxppo.runs.presets import PRESETS, Preset, find_preset

# zsh shows both names of a hyperparameter on one line. In bash they are offered one at a time.
_BASH = """
_purejaxppo() {
  local i
  _shtab_purejaxppo
  [[ ${COMP_WORDS[COMP_CWORD]} == --config.* ]] && return
  for i in "${!COMPREPLY[@]}"; do
    [[ ${COMPREPLY[i]} == --config.* ]] && unset "COMPREPLY[i]"
  done
}
complete -o bashdefault -F _purejaxppo purejaxppo"""


def add_options(parser: Parser, _: Preset) -> None:
    """The shell."""
    about = 'bash, zsh or tcsh: eval "$(purejaxppo completion bash)"'
    option(parser, "shell", "SHELL", str, about, choices=("bash", "zsh", "tcsh"))


def print_completion(options: argparse.Namespace) -> int:
    """Prints the script: it completes commands, options, files, and the names of environments and presets."""
    import shtab

    from purejaxppo.cli.arguments import make_parser  # which imports the commands, this one among them

    parser, commands = make_parser(find_preset("cleanrl"))
    names = {"--env": env_names(), "--preset": list(PRESETS)}
    for command in commands.values():
        for action in command._actions:
            name = (action.option_strings or [""])[-1]
            if name in names:
                action.choices = names[name]
            elif action.metavar in ("RUN", "FOLDER"):
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
            elif action.metavar == "FILE":
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        if options.shell != "tcsh":  # whose list would be doubled
            for name, action in command.short_names.items():
                action.option_strings = [*action.option_strings, name]
    print(shtab.complete(parser, options.shell) + (_BASH if options.shell == "bash" else ""))
    return 0


COMPLETION = Command(
    about="Prints a script that completes commands, options and names in your shell.",
    examples="""  eval "$(purejaxppo completion bash)"               for this shell; in ~/.bashrc for every shell
  purejaxppo completion zsh > ~/.zfunc/_purejaxppo""",
    add_options=add_options,
    run=print_completion,
)
