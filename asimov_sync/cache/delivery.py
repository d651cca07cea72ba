"""Messages as a reader sees them: a leased one (`Delivery`) and a dead one (`Letter`)."""

from typing import Any, NamedTuple, Optional

from asimov_sync.cache.keys import public_id
from asimov_sync.cache.store import LeasedMessage, Store

__all__ = ["Delivery", "Letter"]


class Letter(NamedTuple):
    """A dead letter: a message that was delivered too often without being acknowledged.

    id: its message_id, or the generated one.
    message: the published value.
    deliveries: how often it was delivered.
    """

    id: str
    message: Any
    deliveries: int


class Delivery:
    """A message that is leased to one reader.

    Unless it is acknowledged, it is delivered again when the lease ends.

    message: the published value.
    id: its message_id, or the generated one.
    deliveries: how often it was delivered, this time included. More than 1 means that an earlier
        reader did not acknowledge it.
    """

    def __init__(
        self, store: Store, mailbox: str, leased: LeasedMessage, message: Any, lease: float
    ) -> None:
        self.message = message
        self.id = public_id(leased.id)
        self.deliveries = leased.deliveries
        self._store = store
        self._mailbox = mailbox
        self._leased = leased
        self._lease = lease

    def ack(self) -> bool:
        """Remove the message from its mailbox, because its work is done.

        Returns False, and changes nothing, if the lease ended and another reader took the message.
        Calling it again on the same delivery returns True again.
        """
        return self._store.ack(self._mailbox, self._leased.id, self._leased.fence)

    def release(self) -> None:
        """Return the message to the front of its mailbox. Does nothing if the lease was lost."""
        self._store.release(self._mailbox, self._leased.id, self._leased.fence)

    def extend(self, lease: Optional[float] = None) -> bool:
        """Set the lease to end later.

        lease: seconds from now, by default as many as the first lease.

        Returns False if the lease was lost. Raises ValueError if `lease` is not positive.
        """
        seconds = self._lease if lease is None else lease
        if not seconds > 0:
            raise ValueError(f"lease is a positive number of seconds, not {lease!r}")
        return self._store.extend(self._mailbox, self._leased.id, self._leased.fence, seconds)

    def __repr__(self) -> str:
        return f"<Delivery {self.deliveries} of {self.id!r}>"
