"""One process of the inventory service: `python -m services.inventory --help`."""

from services.inventory.container import InventoryContainer
from shared.command import main

main(InventoryContainer)
