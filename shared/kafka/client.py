"""The Kafka port: a group member and a transactional producer of one slot, on one thread."""

from .consumer import GroupMember
from .producer import TransactionalProducer


class KafkaClient:
    """Implements `shared.protocol.ports.Kafka` with its two halves."""

    def __init__(self, member: GroupMember, producer: TransactionalProducer) -> None:
        self.poll = member.poll
        self.committed = member.committed
        self.beginning = member.beginning
        self.read_from = member.read_from
        self.pause = member.pause
        self.resume = member.resume
        self.leave = member.leave
        self.end_waits_if = member.end_waits_if
        self.renew = producer.renew
        self.begin = producer.begin
        self.produce = producer.produce
        self.send_offsets = producer.send_offsets
        self.commit = producer.commit
        self.confirm = producer.confirm
        self._member = member
        self._halves = (producer, member)

    @property
    def assigned(self) -> bool:
        """Whether the group has assigned this worker its share, even an empty one."""
        return self._member.assigned

    @property
    def unreadable(self) -> str:
        """The inputs that cannot be read, and what to do about it; empty if all can."""
        return self._member.unreadable

    def close(self) -> None:
        """Close both clients."""
        for half in self._halves:
            half.close()
