"""The balance sheet: checks that everything happened exactly once.

    sheet = Balance(bootstrap, dsns).sheet(book)
    assert sheet.balanced, sheet.text()

It is independent of the library: plain SQL and a plain reader, with its own list of what must hold.
"""

from dev.balance.balance import Balance
from dev.balance.book import Book
from dev.balance.sheet import Row, Sheet

__all__ = ["Balance", "Book", "Row", "Sheet"]
