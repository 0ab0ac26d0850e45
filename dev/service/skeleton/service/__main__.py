"""One process: `python -m dev.service.skeleton.service --help`."""

from dev.service.skeleton.service.container import SkeletonContainer
from shared.command import main

main(SkeletonContainer)
