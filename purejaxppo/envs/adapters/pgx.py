"""Pgx: games for one player as they are, and games for several against fixed opponents or in self-play."""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Step
from purejaxppo.envs.spaces import Box, Discrete
from purejaxppo.envs.suites import Adapted, once
from purejaxppo.utils.errors import PPOError
from purejaxppo.utils.tree import NOT_SPLIT, PyTree, key_shape
from purejaxppo.utils.validation import standard_promotion

_pgx: Any = importlib.import_module("pgx")

AGENT = 0  # the player that the policy is. Pgx draws which player moves first.
_NOT_FOR_TWO = ("2048", "minatar-", "sparrow_mahjong")  # how the names of games for one or three players begin

Opponent = Callable[[jax.Array, Any], jax.Array]  # (key, Pgx's state before its move) -> action


def random_opponent(key: jax.Array, state: Any) -> jax.Array:
    """Any legal action, each with the same probability."""
    return jax.random.categorical(key, jnp.where(state.legal_action_mask, 0.0, -jnp.inf))


class PgxState(NamedTuple):
    """Pgx's state, and what the opponents' opening moves have paid to the policy, which its first step receives."""

    pgx: PyTree
    owed: jax.Array  # []


class PgxEnvironment(Adapted):
    """One game of Pgx, as an object that `make_env` takes. In a game of several, all others follow `opponent`."""

    default_params = ()

    def __init__(self, game: Any, opponent: Opponent) -> None:
        start = jax.eval_shape(game.init, key_shape())
        shape, is_binary = start.observation.shape, start.observation.dtype == jnp.bool_
        self.name = f"pgx/{game.id}"
        self.observation_space = Box(shape, *((0.0, 1.0) if is_binary else (-math.inf, math.inf)))
        self.action_space = Discrete(start.legal_action_mask.shape[0])
        self._game, self._opponent = game, opponent

    @standard_promotion
    def reset(self, key: jax.Array, params: PyTree) -> tuple[jax.Array, PgxState]:
        """-> (obs, state) where it is the policy's turn"""
        state = self._to_own_turn(key, self._game.init(key), jnp.float32(0.0))
        return state.pgx.observation, state

    @standard_promotion
    def step(self, key: jax.Array, state: PgxState, action: jax.Array, params: PyTree) -> Step:
        """The policy's move, and those of its opponents up to its next turn. The reward is the sum over them."""
        after = self._game.step(state.pgx, action, key)
        after, reward = self._to_own_turn(key, after, state.owed + after.rewards[AGENT])
        paid = PgxState(after, jnp.zeros_like(state.owed))
        return Step(after.observation, paid, reward, after.terminated, after.truncated)

    def action_mask(self, state: PgxState, params: PyTree) -> jax.Array:
        """-> one bool for each action; all are legal when the game is over"""
        return state.pgx.legal_action_mask

    def _to_own_turn(self, key: jax.Array, state: Any, reward: jax.Array) -> PgxState:
        """The opponents' moves, until it is the policy's turn or the game is over; their rewards are added."""
        if self._game.num_players == 1:
            return PgxState(state, reward)
        key = jax.random.fold_in(key, NOT_SPLIT)  # the game splits the key itself

        def is_awaited(at: tuple[jax.Array, PgxState]) -> jax.Array:
            game = at[1].pgx
            return (game.current_player != AGENT) & ~(game.terminated | game.truncated)

        def reply(at: tuple[jax.Array, PgxState]) -> tuple[jax.Array, PgxState]:
            key, (state, reward) = at
            key, action_key, step_key = jax.random.split(key, 3)
            state = self._game.step(state, self._opponent(action_key, state), step_key)
            return key, PgxState(state, reward + state.rewards[AGENT])

        return jax.lax.while_loop(is_awaited, reply, (key, PgxState(state, reward)))[1]


class SelfPlay(PgxEnvironment):
    """A game of two in which a step is one move, and observation, mask and reward are those of the player who makes it.

    `info["next_value_sign"]` is -1 where the other player moves next: the value there is the mover's loss. Where the
    same player moves again it is 1.
    """

    takes_turns = True

    def __init__(self, game: Any) -> None:
        super().__init__(game, random_opponent)
        self.name += "/self_play"

    @standard_promotion
    def reset(self, key: jax.Array, params: PyTree) -> tuple[jax.Array, PgxState]:
        """-> (obs, state) of the player who moves first"""
        state = self._game.init(key)
        return state.observation, PgxState(state, jnp.float32(0.0))

    @standard_promotion
    def step(self, key: jax.Array, state: PgxState, action: jax.Array, params: PyTree) -> Step:
        """One move."""
        mover, after = state.pgx.current_player, self._game.step(state.pgx, action, key)
        sign = jnp.where(after.current_player == mover, 1.0, -1.0)
        ended, info = (after.terminated, after.truncated), {"next_value_sign": sign}
        return Step(after.observation, state._replace(pgx=after), after.rewards[mover], *ended, info)


def names() -> list[str]:
    """Pgx's games; each game of two also as its self-play, such as tic_tac_toe/self_play."""
    games = _pgx.available_envs()
    return [*games, *(f"{name}/self_play" for name in games if not name.startswith(_NOT_FOR_TWO))]


def make(name: str) -> Any:
    """A game by name, or its self-play."""
    game, _, form = name.partition("/")
    return self_play(_pgx.make(game)) if form else _pgx.make(game)


@once
def adapt(game: Any, opponent: Opponent = random_opponent) -> PgxEnvironment:
    """An object for `make_env`: the policy is one player, and in a game of several, `opponent` is each of the others.

    opponent: (key, state) -> a legal action; `state.observation` and `state.legal_action_mask` are the mover's
    """
    return PgxEnvironment(game, opponent)


@once
def self_play(game: Any) -> SelfPlay:
    """A game of two as an object for `make_env`, in which the policy makes the moves of both."""
    if game.num_players != 2:
        raise PPOError(f"{game.id} has {game.num_players} player(s), and self-play needs 2; give it as it is")
    return SelfPlay(game)
