"""What a population takes, and how many members fit at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.population import memory, program
from purejaxppo.population.memory import (
    MemoryPlan,
    describe_plan,
    even_width,
    group_free_bytes,
    held_bytes,
    parse_bytes,
    plan_memory,
    show_bytes,
    tree_bytes,
)

SMALL = pjp.PPOConfig(num_envs=4, num_steps=16, total_timesteps=4 * 16 * 3, hidden_sizes=(8,))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (123, 123),
        ("4GiB", 4 * 2**30),
        ("500MB", 500_000_000),
        ("1.5g", 1_500_000_000),
        (" 64 KiB ", 65_536),
        ("7", 7),
        ("2b", 2),
    ],
)
def test_sizes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 apple", "1e9", 0, -5, 1.5, True, "0MB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(pjp.PPOError, match="is not a size; give bytes, or text such as 4GiB"):
        parse_bytes(text)


def test_sizes_are_shown():
    assert [show_bytes(x) for x in (12, 2048, 3.5 * 2**20, 2**42)] == ["12 B", "2 KiB", "3.5 MiB", "4,096 GiB"]
    assert [show_bytes(x) for x in (999, 1000, 1000 * 2**20, 1000 * 2**30)] == [
        "999 B",
        "0.977 KiB",
        "0.977 GiB",
        "1,000 GiB",
    ]


@pytest.mark.parametrize(
    ("num_members", "most", "multiple", "width"),
    [(100, 64, 1, 50), (100, 64, 8, 56), (3, 256, 2, 4), (64, 64, 2, 64), (65, 64, 2, 34), (1, 1, 1, 1), (7, 5, 2, 4)],
)
def test_chunks_are_even(num_members, most, multiple, width):
    found = even_width(num_members, most, multiple)
    assert found == width
    assert found % multiple == 0
    assert found <= most
    assert -(-num_members // found) == -(-num_members // (most // multiple * multiple))  # no more chunks than needed


def plan(**changes):
    numbers = {"num_members": 100, "width": 64, "multiple": 2, "per_member": 10, "kept": 0, "held": 500, "limit": 2_000}
    return plan_memory(**(numbers | changes))


def test_a_plan_that_fits_keeps_its_width():
    assert plan() == MemoryPlan(limit=2_000, held=500, kept=0, per_member=10, width=64, num_chunks=2)
    assert plan().peak == 500 + 10 * 64


def test_a_plan_that_does_not_fit_takes_less_at_a_time():
    found = plan(limit=725)
    assert (found.width, found.num_chunks) == (20, 5)  # 22 would fit, and takes as many chunks
    assert found.peak <= 725
    assert plan(limit=725, kept=200).width == 2


def test_a_plan_without_room_for_one_is_refused_with_what_it_takes():
    with pytest.raises(pjp.PPOError, match="515 B is below the 520 B that 2 members at a time take at least; raise"):
        plan(limit=515)
    with pytest.raises(pjp.PPOError, match="write the results to disk"):
        plan(limit=600, kept=90)


def test_the_limit_of_a_container_is_seen(tmp_path):
    assert group_free_bytes(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("10\n")
    assert group_free_bytes(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert group_free_bytes(tmp_path) == [990]
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("500")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("100")
    assert group_free_bytes(tmp_path) == [990, 400]


def test_the_default_limit_is_what_is_held_and_most_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda devices: 1_000)
    monkeypatch.setattr(memory, "held_bytes", lambda devices: 70)
    assert memory.memory_limit_bytes(None, jax.local_devices()) == 970
    assert memory.memory_limit_bytes("2KiB", jax.local_devices()) == 2_048


class Accelerator:
    """What a GPU says of its memory."""

    platform = "gpu"

    def __init__(self, limit, used):
        self.stats = {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self.stats


def test_an_accelerator_is_asked_for_its_own_memory():
    devices = [Accelerator(1_000, 100), Accelerator(1_000, 300)]
    assert memory.held_bytes(devices) == 300
    assert memory.free_bytes(devices) == 700


def test_held_bytes_follow_what_is_held():
    before = held_bytes(jax.local_devices())
    block = np.ones(2**27, np.uint8)
    assert held_bytes(jax.local_devices()) - before == pytest.approx(block.nbytes, rel=0.1)


def test_tree_bytes_counts_keys_by_their_data():
    tree = {"x": jnp.zeros((3, 5)), "key": jax.random.split(jax.random.key(0), 7), "flag": jnp.zeros(2, bool)}
    assert tree_bytes(tree) == 60 + 7 * 8 + 2
    assert tree_bytes(jax.eval_shape(lambda: tree)) == tree_bytes(tree)


def test_a_plan_is_told():
    text = describe_plan(MemoryPlan(limit=2**32, held=2**29, kept=0, per_member=2**20, width=64, num_chunks=3))
    assert text == "3 chunks of up to 64; memory: 1 MiB a member and 512 MiB held already, 576 MiB expected of 4 GiB"
    assert describe_plan(MemoryPlan(2**32, 0, 0, 2**20, 64, 1)).startswith("one chunk; memory: 1 MiB a member")


@pytest.mark.slow
def test_a_population_is_cut_to_its_limit_and_is_the_same():
    """The compiler is asked a second time, for chunks that fit; three of them give what one gives."""
    env = pjp.make_env("CartPole-v1")
    plans, widths, real = [], [], program.compile_program
    whole = pjp.train_population(env, SMALL, num_seeds=9, on_plan=plans.append)
    (one,) = plans
    assert one.num_chunks == 1
    limit = held_bytes(jax.local_devices()) + 64 * 2**20 + one.kept + 5 * one.per_member

    def note_width(job, width):
        widths.append(width)
        return real(job, width)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "compile_program", note_width)
        patch.setattr(program, "held_bytes", lambda devices: limit - one.kept - 5 * one.per_member)
        cut = pjp.train_population(env, SMALL, num_seeds=9, memory_limit=limit, on_plan=plans.append)
    assert widths == [one.width, 4]
    assert plans[1].num_chunks == 3
    assert plans[1].peak <= limit
    np.testing.assert_array_equal(jax.random.key_data(cut.runners.key), jax.random.key_data(whole.runners.key))
    np.testing.assert_allclose(cut.metrics.value_loss[:, :2], whole.metrics.value_loss[:, :2], rtol=1e-4)
    np.testing.assert_array_equal(cut.metrics.episodes[:, 0], whole.metrics.episodes[:, 0])
