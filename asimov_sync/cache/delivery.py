"""A message in the hands of a reader: leased, and to be acknowledged."""

from typing import TYPE_CHECKING, Any, Optional

from asimov_sync.cache.mailboxes import Claim, message_name

if TYPE_CHECKING:
    from asimov_sync.cache.contract import Store

__all__ = ["Delivery"]


class Delivery:
    """A message that is leased to one reader. Until it is acknowledged, it comes again when the lease runs out.

    message: what was published. id: its message_id, or the one that was made up for it. deliveries: how often it has been
    delivered, this time included; more than 1 means that an earlier reader did not acknowledge it.
    """

    def __init__(self, store: "Store", mailbox: str, claim: Claim, message: Any, lease: float) -> None:
        self.message = message
        self.id = message_name(claim.id)
        self.deliveries = claim.deliveries
        self._store = store
        self._mailbox = mailbox
        self._claim = claim
        self._lease = lease

    def ack(self) -> bool:
        """Remove the message from its mailbox: it is done. False, and nothing is done, if the lease ran out and somebody
        else took over; True again if it was acknowledged by this very delivery before.
        """
        return self._store.ack(self._mailbox, self._claim.id, self._claim.fence)

    def release(self) -> None:
        """Give the message back, to be the next that is read; nothing if the lease was lost meanwhile."""
        self._store.release(self._mailbox, self._claim.id, self._claim.fence)

    def extend(self, lease: Optional[float] = None) -> bool:
        """Let the lease run out so many seconds from now, as many as at first where not given. False if it was lost."""
        seconds = self._lease if lease is None else lease
        if not seconds > 0:
            raise ValueError("lease is a positive number of seconds, not {!r}".format(lease))
        return self._store.extend(self._mailbox, self._claim.id, self._claim.fence, seconds)

    def __repr__(self) -> str:
        return "<Delivery {} of {!r}>".format(self.deliveries, self.id)
