"""A plan of everything that customers will do: made from a seed, so that the same seed means the same orders."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

CURRENCY = "EUR"
ITEMS, RARE_ITEMS = 20, 3
ACCOUNTS, POOR_ACCOUNTS = 20, 3
PLENTY = 1_000_000  # pieces; the most that one receipt may bring
RICH = 1_000_000_000_000

# Shares of all orders. Each path through the saga must be walked often enough that a defect in it shows.
RARE_SHARE = 0.06  # wants what is (nearly) out of stock
POOR_SHARE = 0.06  # is paid from an account that is (nearly) empty
CANCELLED_SHARE = 0.08
DUPLICATE_SHARE = 0.06  # is sent twice under one Idempotency-Key
SUPPLY_SHARE = 0.02  # of the steps: something comes in, for a rare item or for a poor account

# An order takes some 50 ms from placed to confirmed when all is well: a cancellation may meet it anywhere.
CANCEL_SECONDS_MAX = 0.15


@dataclass(frozen=True)
class Step:
    """An action of a customer, and when: seconds after the start."""

    moment: float
    key: str
    """Names it; the Idempotency-Key of its request."""


@dataclass(frozen=True)
class Order(Step):
    """A customer orders."""

    account: str
    lines: tuple[tuple[str, int], ...]
    """SKU and quantity."""
    duplicate_seconds: float | None = None
    """When the same request is sent once more."""
    cancel_seconds: float | None = None
    """When it is cancelled, after it was accepted."""


@dataclass(frozen=True)
class Receipt(Step):
    """Pieces of an item come in."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class Deposit(Step):
    """Money comes in."""

    account: str
    amount: int


@dataclass(frozen=True)
class Market:
    """Items with their prices, accounts, and all that will happen."""

    prices: dict[str, int]
    accounts: tuple[str, ...]
    opening: tuple[Step, ...]
    """What is put in before the first order."""
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def orders(self) -> int:
        return sum(isinstance(step, Order) for step in self.steps)


def plan(name: str, seed: int, orders: int, seconds: float) -> Market:
    """Plan `orders` orders within `seconds`. `name` is in every id, so that several plans can share one system."""
    random_ = random.Random(seed)
    items = [f"{name}-item-{number}" for number in range(ITEMS)]
    rare = [f"{name}-rare-{number}" for number in range(RARE_ITEMS)]
    accounts = [f"{name}-account-{number}" for number in range(ACCOUNTS)]
    poor = [f"{name}-poor-{number}" for number in range(POOR_ACCOUNTS)]
    prices = {sku: random_.randint(100, 9_999) for sku in (*items, *rare)}
    opening: list[Step] = [Receipt(0, f"{name}-stock-{sku}", sku, PLENTY) for sku in items]
    opening += [Receipt(0, f"{name}-stock-{sku}", sku, 3) for sku in rare]
    opening += [Deposit(0, f"{name}-deposit-{account}", account, RICH) for account in accounts]
    opening += [Deposit(0, f"{name}-deposit-{account}", account, 10_000) for account in poor]
    steps: list[Step] = []
    for number in range(orders):
        moment = seconds * number / orders
        key = f"{name}-{number}"
        if random_.random() < SUPPLY_SHARE:
            steps.append(
                Receipt(moment, f"{key}-receipt", random_.choice(rare), random_.randint(1, 5))
                if random_.random() < 0.5
                else Deposit(moment, f"{key}-deposit", random_.choice(poor), random_.randint(1_000, 50_000))
            )
        steps.append(_order(random_, moment, key, (items, rare), (accounts, poor)))
    return Market(prices, (*accounts, *poor), tuple(opening), tuple(steps))


def _order(
    random_: random.Random,
    moment: float,
    key: str,
    items: tuple[Sequence[str], Sequence[str]],
    accounts: tuple[Sequence[str], Sequence[str]],
) -> Order:
    plenty, rare = items
    rich, poor = accounts
    wanted = random_.sample(plenty, random_.randint(1, 3))
    if random_.random() < RARE_SHARE:
        wanted.append(random_.choice(rare))
    return Order(
        moment,
        key,
        random_.choice(poor if random_.random() < POOR_SHARE else rich),
        tuple((sku, random_.randint(1, 3)) for sku in wanted),
        # At once, so that the two requests meet, or later, when the first has its answer.
        random_.choice((0.0, 0.5)) if random_.random() < DUPLICATE_SHARE else None,
        random_.uniform(0, CANCEL_SECONDS_MAX) if random_.random() < CANCELLED_SHARE else None,
    )
