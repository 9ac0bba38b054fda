"""Hyperparameters as people write them on the command line."""

import pytest

from purejaxppo.cli.arguments import make_parser, read_options
from purejaxppo.cli.parser import Parser
from purejaxppo.runs.presets import PRESETS


@pytest.mark.parametrize(
    ("text", "steps"), [("5e9", 5_000_000_000), ("1e6", 10**6), ("1_000_000", 10**6), ("5000000000", 5 * 10**9)]
)
def test_a_number_of_timesteps_may_be_large_and_written_with_an_exponent(text, steps):
    options = vars(read_options(["train", "--config.total-timesteps", text]))
    assert options["config.total_timesteps"] == steps
    assert type(options["config.total_timesteps"]) is int


@pytest.mark.parametrize("text", ["1.5", "1e-3", "inf", "nan", "1e300", "0", "1e", ""])
def test_what_is_no_number_of_timesteps_is_refused(text, refused):
    assert "--config.total-timesteps" in refused(["train", "--config.total-timesteps", text])


@pytest.mark.parametrize("command", ["train", "sweep", "bench"])
def test_a_hyperparameter_may_be_given_without_its_prefix(command):
    short = read_options([command, "--learning-rate", "3e-4", "--num-envs=8", "--hidden-sizes", "8,8"])
    assert short == read_options(
        [command, "--config.learning-rate", "3e-4", "--config.num-envs=8", "--config.hidden-sizes", "8,8"]
    )
    assert vars(short)["config.num_envs"] == 8


def test_every_hyperparameter_of_every_preset_has_a_short_name_or_another_option_has_it():
    for preset in PRESETS.values():
        command = make_parser(preset)[1]["train"]
        for action in command._actions:
            for option in action.option_strings:
                if option.startswith("--config."):
                    assert option.replace("config.", "") in command._option_string_actions


def test_another_option_keeps_its_name():
    parser = Parser(prog="x")
    parser.add_argument("--seed")
    parser.add_short(parser.add_argument("--config.seed"))
    assert vars(parser.parse_args(["--seed", "1", "--config.seed", "2"])) == {"seed": "1", "config.seed": "2"}


def test_the_help_mentions_a_hyperparameter_once(capsys):
    with pytest.raises(SystemExit):
        read_options(["sweep", "--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in lines if words and "learning-rate" in words[0]] == ["--config.learning-rate"]


def test_a_sweep_takes_names_with_and_without_the_prefix():
    domains = [
        read_options(["sweep", "--over", f"{name}=1e-4"]).over for name in ("learning-rate", "config.learning-rate")
    ]
    assert domains == [[("learning_rate", [1e-4])]] * 2


@pytest.mark.parametrize("line", ["learning-rate = 1e-3", "anneal-lr = true", "anneal_lr = false"])
def test_a_file_has_the_hyperparameters_in_their_table(line, refused, tmp_path):
    (tmp_path / "run.toml").write_text(line)
    said = refused(["train", "--config", "run.toml"])
    assert line.split()[0].replace("_", "-") in said
    assert "[config]" in said
