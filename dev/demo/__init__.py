"""The demo, which is the kill test: customers order while workers are killed and frozen; then the books are balanced.

Its parts are used by the tests too: `market` plans what customers do and `load` does it, `chaos` plans who is struck
and strikes, `observer` measures what a subscriber sees, and `dev.balance` decides.
"""
