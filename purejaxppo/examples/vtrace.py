"""V-trace (Espeholt et al. 2018) instead of generalised advantage estimation: your own advantage and target.

V-trace corrects returns for steps that another policy took. PPO learns from its own rollout, where all ratios are 1 and
V-trace gives n-step returns. `vtrace` is the general function, for rollouts of older parameters or of another policy.

To run it: python -m purejaxppo.examples.vtrace
"""

import jax
import jax.numpy as jnp

import purejaxppo as pjp


def vtrace(
    log_ratio: jax.Array, steps: pjp.Steps, gamma: float | jax.Array, rho_max: float = 1.0, c_max: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Equation 1: v_s = V(x_s) + sum over t >= s of gamma^(t - s) (c_s ... c_(t-1)) rho_t (r_t + gamma V' - V).

    log_ratio: log pi(a|x) - log mu(a|x) of the policy that learns and the one that acted, [T, B].
    -> (advantage rho_s (r_s + gamma v_(s+1) - V(x_s)), target v_s), [T, B] each
    """
    rho, c = (jnp.minimum(most, jnp.exp(log_ratio)) for most in (rho_max, c_max))
    next_value = jnp.where(steps.terminated, 0.0, steps.next_value)
    delta = rho * (steps.reward + gamma * next_value - steps.value)
    goes_on = ~(steps.terminated | steps.truncated)

    def accumulate(later: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        delta, c, goes_on = step
        later = jnp.where(goes_on, later, 0.0)  # v - V at the next step
        gain = delta + gamma * c * later
        return gain, (gain, later)

    start = jnp.zeros_like(delta[0])
    _, (gain, later) = jax.lax.scan(accumulate, start, (delta, c, goes_on), reverse=True)
    return delta + rho * gamma * later, steps.value + gain


def vtrace_advantage(steps: pjp.Steps, context: pjp.LossContext) -> tuple[jax.Array, jax.Array]:
    """V-trace of a rollout for the policy of `context.params`."""
    policy = context.distribution(context.apply(context.params, steps.obs)[0])
    return vtrace(policy.log_prob(steps.action) - steps.log_prob, steps, context.config.gamma)


def make_agent(env: pjp.Environment, config: pjp.PPOConfig) -> pjp.PPO:
    """PPO with V-trace, for a policy without a memory."""
    return pjp.make_ppo(env, config, advantage=vtrace_advantage)


def main() -> None:
    """Trains four seeds of CartPole, and prints the return as it grows."""
    env, config = pjp.make_env("CartPole-v1"), pjp.PPOConfig(num_envs=16, total_timesteps=102_400, learning_rate=2.5e-3)
    population = pjp.train_population(env, config, num_seeds=4, make_agent=make_agent)
    print("mean returns:", jnp.nanmean(population.column("episode_return_mean"), axis=0)[::5].round(1))


if __name__ == "__main__":
    main()
