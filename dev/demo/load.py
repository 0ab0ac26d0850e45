"""Customers: they do what the plan says, over HTTP, at its pace, and keep a book of what they were told.

A request without an answer is sent again under the same Idempotency-Key until there is one, so in the end every
accepted order is known - and a request that was carried out twice is found out.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import httpx

from dev.balance import Book
from dev.demo.client import Client, UnansweredError
from dev.demo.market import CURRENCY, Deposit, Market, Order, Receipt, Step

# More requests at a time would only queue in front of the API.
AT_ONCE = 64


class Load:
    """Carries out a plan, once."""

    def __init__(self, url: Callable[[str], str], market: Market, headers: Mapping[str, str] | None = None) -> None:
        """`url` returns the base URL of the API of a service; `headers` go with every request."""
        self._url = url
        self._headers = headers
        self._market = market
        self._stopping = False
        self.book = Book()
        self.counts: Counter[str] = Counter()
        """`accepted`, `duplicates`, `cancelled`, `too late to cancel`, `repeated` (for want of an answer)."""
        self.problems: list[str] = []
        """Answers that should not have been given."""
        self.seconds = 0.0
        """How long it took, once it is done."""

    def stop(self) -> None:
        """Begin nothing more; finish what is under way."""
        self._stopping = True

    def open(self) -> None:
        """Introduce the items, open the accounts, and put in what the plan begins with."""
        asyncio.run(self._open())

    def run(self) -> None:
        """Carry out the plan."""
        began = time.monotonic()
        asyncio.run(self._carry_out(self._market.steps))
        self.seconds = time.monotonic() - began

    async def _open(self) -> None:
        client = Client(AT_ONCE, self.counts, self._headers)
        try:
            for sku, price in self._market.prices.items():
                url = f"{self._url('inventory')}/stock/{sku}"
                self._expect(await client.send("PUT", url, sku, {"price": price, "currency": CURRENCY}), 201, 200)
            for account in self._market.accounts:
                url = f"{self._url('payment')}/accounts/{account}"
                self._expect(await client.send("PUT", url, account, {"currency": CURRENCY}), 201, 200)
        finally:
            await client.close()
        await self._carry_out(self._market.opening)

    async def _carry_out(self, steps: Sequence[Step]) -> None:
        client = Client(2 * AT_ONCE, self.counts, self._headers)
        gate = asyncio.Semaphore(AT_ONCE)
        began = time.monotonic()

        async def one(step: Step) -> None:
            try:
                await self._do(client, step)
            except UnansweredError as error:
                self.book.unknown.add(step.key)
                self.problems.append(str(error))
            finally:
                gate.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                for step in steps:
                    await asyncio.sleep(max(0.0, began + step.moment - time.monotonic()))
                    await gate.acquire()
                    if self._stopping:
                        return
                    tasks.create_task(one(step))
        finally:
            await client.close()

    async def _do(self, client: Client, step: Step) -> None:
        match step:
            case Order():
                await self._order(client, step)
            case Receipt():
                url = f"{self._url('inventory')}/stock/{step.sku}/receipts"
                answer = await client.send("POST", url, step.key, {"quantity": step.quantity})
                if self._expect(answer, 201):
                    self.book.received[step.sku] += step.quantity
            case Deposit():
                url = f"{self._url('payment')}/accounts/{step.account}/deposits"
                body = {"amount": step.amount, "currency": CURRENCY}
                if self._expect(await client.send("POST", url, step.key, body), 201):
                    self.book.deposited[step.account] += step.amount
            case _:
                raise TypeError(f"no such step: {step}")

    async def _order(self, client: Client, order: Order) -> None:
        pauses = (0.0,) if order.duplicate_seconds is None else (0.0, order.duplicate_seconds)
        self.counts["duplicates"] += len(pauses) - 1
        answers = await asyncio.gather(*(self._place(client, order, pause) for pause in pauses))
        for other in answers[1:]:
            if other != answers[0]:
                self.book.contradictions.append(f"{other} and {answers[0]} are answers to {order.key}")

    async def _place(self, client: Client, order: Order, pause: float) -> str | None:
        """Place an order, and return its id; the first of two equal requests may cancel it."""
        await asyncio.sleep(pause)
        body = {"account": order.account, "lines": [{"sku": sku, "quantity": n} for sku, n in order.lines]}
        answer = await client.send("POST", f"{self._url('order')}/orders", order.key, body)
        if not self._expect(answer, 201):
            return None
        order_id = str(answer.json()["id"])
        if order_id not in self.book.accepted:
            self.counts["accepted"] += 1
            self.book.accept(order.key, order_id)
            if order.cancel_seconds is not None:
                await asyncio.sleep(order.cancel_seconds)
                await self._cancel(client, order, order_id)
        return order_id

    async def _cancel(self, client: Client, order: Order, order_id: str) -> None:
        answer = await client.send("POST", f"{self._url('order')}/orders/{order_id}/cancel", f"{order.key}-cancel")
        if answer.status_code == 409:
            self.counts["too late to cancel"] += 1
        elif self._expect(answer, 200):
            self.counts["cancelled"] += 1
            self.book.cancelled.add(order_id)

    def _expect(self, answer: httpx.Response, *statuses: int) -> bool:
        """Note an answer that the plan has no place for."""
        if answer.status_code in statuses:
            return True
        asked = f"{answer.request.method} {answer.request.url.path}"
        self.problems.append(f"{asked} was answered with {answer.status_code}: {answer.text[:300]}")
        return False
