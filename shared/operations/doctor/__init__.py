"""The command `doctor`: one look at everything that a service needs, which says what is wrong and how to mend it."""
