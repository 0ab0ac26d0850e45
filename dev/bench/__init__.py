"""The benchmark: what the guarantee costs, each figure beside what it is compared with, measured in one run.

    python -m dev.bench                       # everything but the million, in a few minutes
    python -m dev.bench events --events 50000
    python -m dev.bench million               # a million events through one worker

Each section starts a Kafka and a PostgreSQL of its own.
"""
