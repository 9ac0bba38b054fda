"""Your own agent is checked before it trains, by every function that trains it."""

import dataclasses
import functools

import jax.numpy as jnp
import pytest

import purejaxppo as pjp
from purejaxppo.population.own_agents import check_functions, check_members
from purejaxppo.population.sweep import make_programs
from purejaxppo.runs.own_agent import UNNAMED, agent_in_python, agent_of_run, bring_agent

CONFIG = pjp.PPOConfig(num_envs=2, num_steps=8, total_timesteps=32, hidden_sizes=(4,), num_minibatches=1)


@pytest.fixture(scope="module")
def env():
    return pjp.make_env("CartPole-v1")


class Delegating:
    """PPO, but for what a test changes."""

    def __init__(self, env, config, **changes):
        self.base, self.changes = pjp.make_ppo(env, config), changes

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.changes.get(name, getattr(self.base, name))


def several_numbers(base):
    def update(runner):
        runner, metrics = base.update(runner)
        return runner, metrics.replace(extra={"row": jnp.ones(3)})

    return update


def taken_name(base):
    def update(runner):
        runner, metrics = base.update(runner)
        return runner, metrics.replace(extra={"updates": jnp.float32(0)})

    return update


WRONG = {
    "row": (lambda base: {"update": several_numbers(base)}, r"metric row has the shape \(3,\)"),
    "taken": (lambda base: {"update": taken_name(base)}, "metrics.extra has 'updates', which is another column"),
    "swapped": (lambda base: {"policy": lambda *args: base.policy(*args)[::-1]}, r"policy must return \(distribution"),
    "dict": (lambda base: {"update": lambda runner: (runner, {})}, r"update must return \(runner, pjp.Metrics\)"),
    "state": (lambda base: {"init": lambda key: {"key": key}}, r"init must return a pjp.RunnerState"),
    "shapes": (
        lambda base: {"update": lambda runner: (runner.replace(obs=runner.obs[0]), base.update(runner)[1])},
        r"update must return a runner like that of init: \.obs is float32\[4\], not float32\[2, 4\]",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_function_that_returns_something_else_is_refused(env, changes, message):
    base = pjp.make_ppo(env, CONFIG)
    check_functions("mine", Delegating(env, CONFIG))
    with pytest.raises(pjp.PPOError, match=f"^mine: .*{message}"):
        check_functions("mine", Delegating(env, CONFIG, **changes(base)))


def test_a_member_that_is_missing_is_named():
    with pytest.raises(pjp.PPOError, match="mine returns a object, which lacks env, config, actions, init, update"):
        check_members("mine", object(), CONFIG)


def test_a_population_and_a_run_refuse_before_anything_is_made(env, tmp_path):
    def make_agent(env, config):
        return Delegating(env, config, update=several_numbers(pjp.make_ppo(env, config)))

    with pytest.raises(pjp.PPOError, match="metric row"):
        pjp.train_population(env, CONFIG, num_seeds=2, make_agent=make_agent)
    with pytest.raises(pjp.PPOError, match="metric row"):
        pjp.train_run(env, CONFIG, out=tmp_path / "run", num_seeds=2, make_agent=make_agent, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_unnamed_function_is_read_with_the_agent_that_a_command_names(tmp_path, monkeypatch):
    monkeypatch.setattr("purejaxppo.runs.own_agent._BROUGHT", {})
    assert agent_in_python(lambda env, config: pjp.make_ppo(env, config)).name == UNNAMED
    with pytest.raises(pjp.PPOError, match=r"give --agent FILE\.py:FUNCTION"):
        agent_of_run(UNNAMED, tmp_path)
    (tmp_path / "unnamed_test.py").write_text("import purejaxppo as pjp\nmake_agent = pjp.make_ppo\n")
    bring_agent(f"{tmp_path}/unnamed_test.py:make_agent")
    assert agent_of_run(UNNAMED, tmp_path).make_agent is pjp.make_ppo


@dataclasses.dataclass(frozen=True)
class Fielded(pjp.PPOConfig):
    window: int = 2  # read by Python, and not declared static
    squared: bool = True
    kind: str = "sum"


def test_a_number_that_python_reads_is_refused_with_the_remedy(env):
    def reward(params, steps, context):
        return steps.reward * len(range(context.config.window))

    config = Fielded(num_envs=2, num_steps=8, total_timesteps=32, hidden_sizes=(4,), num_minibatches=1)
    make_agent = functools.partial(pjp.make_ppo, reward=reward)
    with pytest.raises(pjp.PPOError, match=r"window: TracerIntegerConversionError.*pjp\.static"):
        pjp.train_population(env, config, num_seeds=2, sweep={"window": [1, 2]}, make_agent=make_agent)

    def make_branching(env, config):
        assert config.vf_coef >= 0
        return pjp.make_ppo(env, config)

    space = {"vf_coef": pjp.uniform(0.1, 1.0)}
    with pytest.raises(pjp.PPOError, match=r"vf_coef: TracerBoolConversionError.*pjp\.static"):
        pjp.make_pbt(env, config, space, num_members=2, interval=1, make_agent=make_branching)


def test_a_bool_and_a_string_of_an_own_config_make_programs_of_their_own(env):
    points = [{"squared": True}, {"squared": False}, {"kind": "mean"}, {"window": 3}]
    programs = make_programs(env, Fielded(), points)
    assert [program.settings for program in programs] == [(0, 3), (1,), (2,)]


def test_an_agent_of_another_length_than_its_config_is_refused(env):
    make_agent = lambda env, config: pjp.make_ppo(env, config.replace(num_envs=2 * config.num_envs))  # noqa: E731
    with pytest.raises(pjp.PPOError, match=r"config.batch_size is \d+, and \d+ is wanted; change num_envs"):
        pjp.train_population(env, CONFIG, num_seeds=1, make_agent=make_agent)


class Averaging(Delegating):
    """Its states have an average, which `continue_from` of the agent within knows nothing of."""

    def __init__(self, env, config):
        super().__init__(env, config)
        base = pjp.make_ppo(env, config)
        self.continue_from = base.continue_from
        self.init = lambda key: with_average(base.init(key))


class AverageState(pjp.TrainState):
    average: object = None


def with_average(runner):
    state = runner.train_state
    return runner.replace(train_state=AverageState(**vars(state), average=state.params))


def test_a_start_that_is_not_like_that_of_init_is_refused(env):
    trained = pjp.train_population(env, CONFIG, num_seeds=1)
    with pytest.raises(pjp.PPOError, match=r"continue_from must return .*like that of init: \.train_state\.average"):
        pjp.train_population(env, CONFIG, num_seeds=1, make_agent=Averaging, init_from=trained.train_state)
