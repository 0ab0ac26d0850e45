"""One process: `python -m services.order --help`."""

from services.order.container import OrderContainer
from shared.command import main

main(OrderContainer)
