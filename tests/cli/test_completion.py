"""What the shells complete, by the scripts that the command prints; bash runs its own."""

import shutil
import subprocess

import pytest

from purejaxppo.cli import main as cli
from purejaxppo.runs.presets import PRESETS


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lines.append)
        assert cli.main(["completion", "bash"]) == 0
    return "\n".join(lines)


def completions(script, *words):
    """What bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = f"""
{script}
COMP_WORDS=({quoted})
COMP_CWORD={len(words) - 1}
$(complete -p purejaxppo | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    command = [shutil.which("bash"), "--norc", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_presets_and_environments(script):
    assert completions(script, "purejaxppo", "tr") == ["train"]
    assert {"--seed", "--seeds"} == set(completions(script, "purejaxppo", "train", "--see"))
    assert completions(script, "purejaxppo", "sweep", "--config.le") == ["--config.learning-rate"]
    assert completions(script, "purejaxppo", "sweep", "--le") == ["--learning-rate"]
    options = completions(script, "purejaxppo", "train", "--")
    assert [name for name in options if "learning-rate" in name] == ["--learning-rate"]
    assert completions(script, "purejaxppo", "train", "--preset", "mountain") == [
        *("mountaincar", "mountaincar-continuous")
    ]
    assert set(completions(script, "purejaxppo", "train", "--preset", "")) == set(PRESETS)
    assert completions(script, "purejaxppo", "train", "--env", "Pend") == ["Pendulum-v1"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_other_shells_get_a_script_with_every_command(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in cli.RUN)


def help_lines(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(words)
    assert leaving.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("words", [[], *([command] for command in cli.RUN)])
def test_help_fits_a_screen(words, capsys):
    """All options of a command, with their defaults, in a hundred lines; each in one; and examples that it takes."""
    lines = help_lines([*words, "--help"], capsys)
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 85
    usage = lines[: lines.index("")]
    assert len(usage) <= 3
    examples = [line.split() for line in lines[lines.index("examples:") + 1 :]]
    assert 1 <= len(examples) <= 4
    assert lines[len(usage) + 1].endswith(".")
    known = {word for line in lines for word in line.split()[:1]} | {"--seeds", "--preset", "--env"}
    known |= {word.replace("--config.", "--") for word in known}
    for example in examples:
        assert "purejaxppo" in " ".join(example)
        assert {word for word in example if word.startswith("--")} <= known | {"--episodes", "--help"}


def test_help_has_the_defaults_of_the_preset(capsys):
    for preset, rate in (("cleanrl", "0.00025"), ("pendulum", "0.001")):
        with pytest.raises(SystemExit):
            cli.main(["train", "--preset", preset, "--help"])
        text = capsys.readouterr().out
        assert f"defaults of the preset {preset}:" in text
        assert f"learning rate of Adam in the first update ({rate})" in text


def test_presets_are_listed(capsys):
    assert cli.main(["presets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
