"""Admission by level: no tree deadlocks, and the cap holds."""

from contextlib import AsyncExitStack

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.errors import ConfigError
from rlm.sandbox.slots import LevelSlots
from rlm.testing import run_virtually

Tree = list["Tree"]


def trees(levels: int) -> st.SearchStrategy[Tree]:
    return st.just([]) if levels == 1 else st.lists(trees(levels - 1), max_size=4)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(0, 3))
def test_no_tree_of_any_shape_deadlocks_or_exceeds_the_cap(data: st.DataObject, levels: int, spare: int) -> None:
    tree = data.draw(trees(levels))
    cap = levels + spare
    alive = most = done = 0

    async def node(slots: LevelSlots, level: int, children: Tree) -> None:
        nonlocal alive, most, done
        async with slots.hold(level):
            alive += 1
            most = max(most, alive)
            await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as group:
                for child in children:
                    group.start_soon(node, slots, level + 1, child)
            alive -= 1
            done += 1

    async def main() -> None:
        with anyio.fail_after(10):
            await node(LevelSlots(slots=cap, levels=levels), 0, tree)

    def size(children: Tree) -> int:
        return 1 + sum(size(child) for child in children)

    anyio.run(main)
    assert most <= cap
    assert done == size(tree)


def test_fewer_slots_than_levels_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="max_sandboxes=2 is too small for 3 levels"):
        LevelSlots(slots=2, levels=3)


@pytest.mark.anyio
async def test_cancelling_a_holder_or_a_waiter_releases_its_slot() -> None:
    slots = LevelSlots(slots=1, levels=1)

    async def hold() -> None:
        async with slots.hold(0):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        group.start_soon(hold)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    with anyio.fail_after(1):
        async with slots.hold(0):
            pass


@given(st.integers(1, 8), st.integers(0, 60))
def test_every_level_has_slots_that_those_above_it_cannot_take(levels: int, spare: int) -> None:
    slots = LevelSlots(slots=levels + spare, levels=levels)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for level in range(levels):
                before = slots.in_use
                while True:
                    with anyio.move_on_after(1):
                        await stack.enter_async_context(slots.hold(level))
                        continue
                    break
                assert slots.in_use > before
            assert slots.in_use == levels + spare

    run_virtually(main)
    assert slots.in_use == 0
