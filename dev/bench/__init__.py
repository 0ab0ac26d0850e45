"""The benchmark: what the guarantee costs, each figure beside what it is compared with, measured in one run.

    python -m dev.bench                       # all but the last two sections, in some minutes
    python -m dev.bench events --events 50000
    python -m dev.bench capacity              # the most orders that are borne, twice as many, and a peer
    python -m dev.bench million               # a million events through one worker

Each section starts a Kafka and a PostgreSQL of its own.
"""
