"""A trial of handlers refuses what a worker would be refused, and shows what a worker would see."""

import pytest
from sqlalchemy import ForeignKey, Text, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.errors import NotOwned, SessionMisused
from shared.events import Event
from shared.service import Service
from shared.session import Session
from shared.testing import MakeTrial, MemorySession


class Base(DeclarativeBase):
    pass


class Lab(Base):
    __tablename__ = "lab"

    id: Mapped[str] = mapped_column(Text, primary_key=True)


class Box(Base):
    __tablename__ = "box"

    id: Mapped[int] = mapped_column(primary_key=True)
    lab: Mapped[str] = mapped_column(ForeignKey("lab.id"))


class Asked(Event, topic="asked", key="lab"):
    lab: str
    how: str = ""


class Told(Asked, topic="told"):
    boxes: int = 0


SERVICE = Service("boxes", publishes=(Told,))


@SERVICE.on(Asked)
def handle(asked: Asked, session: Session) -> Told:
    if asked.how == "commit":
        session.commit()
    if asked.how != "no lab":
        session.add(Box(lab=asked.lab))
        if asked.how != "only read" and session.lock(Lab, asked.lab) is None:
            session.add(Lab(id=asked.lab))
    else:
        session.add(Box(lab="none"))
    boxes = session.scalars(select(func.count()).select_from(Box)).one()
    return Told(lab=asked.lab, boxes=boxes)


def test_a_trial_is_a_batch_on_a_real_database(trial: MakeTrial) -> None:
    batch = trial(SERVICE, Base)
    batch.given(Lab(id="b"))
    with pytest.raises(NotOwned, match="'b'"):
        batch.when(Asked(lab="b", how="only read"))


@pytest.mark.parametrize(("how", "error"), [("no lab", IntegrityError), ("commit", SessionMisused)])
def test_what_a_worker_would_be_refused_is_refused(trial: MakeTrial, how: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        trial(SERVICE, Base).when(Asked(lab="a", how=how))


def test_a_world_in_memory_says_what_it_cannot_do() -> None:
    with pytest.raises(SessionMisused, match=r"no session.scalars: use the fixture `trial`"):
        MemorySession().scalars(select(Lab))
