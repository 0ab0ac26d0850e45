"""Who waits for a locked row leaves places for others, and whoever leaves gives its place back."""

import asyncio

from shared.http.places import FOR_READERS, Places

EACH = 3
PLACES = 3 * EACH


def test_one_resource_takes_only_its_share_and_who_gives_up_gives_it_back() -> None:
    async def story() -> None:
        places, over, within = Places(PLACES), asyncio.Event(), list[str]()

        async def hold(resource: str) -> None:
            async with places.take(resource):
                within.append(resource)
                await over.wait()

        async def turn(*resources: str) -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(hold(one)) for one in resources]
            await asyncio.sleep(0)  # one turn of the loop, in which whoever finds a place takes it
            return tasks

        hot = await turn(*["hot"] * (EACH + 2))
        assert within == ["hot"] * EACH
        others = await turn(*(f"cold {n}" for n in range(PLACES)))
        assert len(within) == PLACES - FOR_READERS, "as many as there are places, less those for readers"

        for waiting in (hot[-1], others[-1]):
            waiting.cancel()
        over.set()
        await asyncio.gather(*hot, *others, return_exceptions=True)
        assert [task.cancelled() for task in (*hot, *others)].count(True) == 2
        assert len(within) == EACH + 1 + PLACES - 1
        over.clear()
        within.clear()
        await turn(*["hot"] * (EACH + 1))
        assert within == ["hot"] * EACH
        over.set()

    asyncio.run(story())
