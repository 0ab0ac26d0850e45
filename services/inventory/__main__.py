"""One process: `python -m services.inventory --help`."""

from services.inventory.container import InventoryContainer
from shared.command import main

main(InventoryContainer)
