"""Numbers as people write them on the command line."""

import pytest

from purejaxppo.cli.arguments import read_options


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
