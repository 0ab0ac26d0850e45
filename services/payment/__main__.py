"""One process: `python -m services.payment --help`."""

from services.payment.container import PaymentContainer
from shared.command import main

main(PaymentContainer)
