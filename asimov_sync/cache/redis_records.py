"""Records on a Redis server or cluster: the scripts behind each method of `RecordStore`."""

import uuid
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import asimov_sync.cache.lua_records as lua
from asimov_sync.cache.keys import RUN
from asimov_sync.cache.limits import CALL_SECONDS, Limits
from asimov_sync.cache.record_values import (
    decode_tags,
    encode_tags,
    identify_commit,
    to_duration_ms,
    to_moment_ms,
)
from asimov_sync.cache.records import (
    MAX_LOG_ENTRIES,
    Claim,
    Committed,
    LogEntry,
    NewRecord,
    RecordChange,
    RecordStore,
    Snapshot,
)
from asimov_sync.cache.redis_connection import RedisConnection
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.errors import CacheUnavailable

__all__ = ["RedisRecords"]

WAIT_SECONDS = 0.35
"""Longest single wait for the bell. It wakes one of the waiting threads; the others look then."""

BATCH_SIZE = 200
"""Records that are read in one step, so that it takes less than 5 ms."""


class RedisRecords(RecordStore):
    """The records of one namespace.

    connection: the server or cluster.
    head, tail: the namespace, as text before and after its keys.
    read_clock: returns the milliseconds that leases are measured by; None uses the server's clock.
    """

    def __init__(
        self,
        connection: RedisConnection,
        head: str,
        tail: str,
        read_clock: Optional[Callable[[], int]],
    ) -> None:
        self.connection = connection
        self.clock = read_clock
        # An id may contain the separator, so it is not a part of the path, unlike the name of a
        # value. Otherwise it could be the record of another view.
        self._path = f"{head}{tail}{RUN}"
        index = f"{self._path}s{{runs:{head}{tail}}}"
        self._index_keys = [f"{index}{name}" for name in lua.INDEX_KEYS]
        # The number of commits by the id, owner and epoch of each lease that is held here.
        self._commits: Dict[Tuple[str, str, int], int] = {}

    def _record_keys(self, id: str) -> List[str]:
        return [f"{self._path}{{{id}}}{name}" for name in lua.RECORD_KEYS]

    def _run(self, text: str, keys: List[str], arguments: List[Any]) -> Any:
        now = "" if self.clock is None else self.clock()
        send = self.connection.send_idempotent
        return self.connection.run_script(text, send, keys, [now, *arguments])

    def _run_on_record(self, text: str, id: str, *arguments: Any) -> Any:
        """Run a script on a record, and on the index if it is in the same slot."""
        keys = self._record_keys(id)
        if not self.connection.clustered:
            keys += self._index_keys
        return self._run(text, keys, [id, *arguments])

    def _run_on_index(self, text: str, *arguments: Any, id: str = "") -> Any:
        return self._run(text, self._index_keys, [id, *arguments])

    def _write_index(self, head: "_Head") -> None:
        """Write the state of a record to the index, on a cluster."""
        if self.connection.clustered:
            self._run_on_index(lua.WRITE_INDEX, *head.state, id=head.snapshot.id)

    # Writing

    def claim(
        self,
        id: str,
        owner: str,
        lease: float,
        status: str,
        claimable: Collection[str],
        new: Optional[NewRecord] = None,
        dead_owner: Optional[str] = None,
    ) -> Optional[Claim]:
        """Take the lease of a record, or create the record and take its lease, in one step."""
        fixed = [owner, to_duration_ms(lease), status, dead_owner or ""]
        asked = [len(claimable), *claimable]
        content: List[Any] = []
        if new is not None:
            content = [encode_tags(new.tags), new.summary, *_pairs(new.fields)]
        if self.connection.clustered or new is None:
            reply = self._run_on_record(lua.CLAIM, id, *fixed, "", "", *asked)
            while not reply and new is not None:
                created = self._run_on_index(
                    lua.BEGIN_CREATION, status, fixed[1], content[0], id=id
                )
                reply = self._run_on_record(
                    lua.CLAIM, id, *fixed, "create", created, *asked, *content
                )
                if len(reply) == 1:  # too late
                    reply = []
        else:
            reply = self._run_on_record(lua.CLAIM, id, *fixed, "create", "", *asked, *content)
        if not reply:
            return None
        won, created, now, fields, head_reply = reply
        head = _parse_head(id, head_reply, now, fields)
        self._write_index(head)
        return Claim(bool(won), bool(created), head.snapshot)

    def commit(self, id: str, owner: str, epoch: int, change: RecordChange) -> Optional[Committed]:
        """Write a change in one step, if no other owner took this lease with this epoch."""
        written = {name: data for name, data in change.fields.items() if data is not None}
        removed = [name for name, data in change.fields.items() if data is None]
        arguments = [
            owner,
            epoch,
            "" if change.lease is None else to_duration_ms(change.lease),
            change.status or "",
            "" if change.due is None else to_moment_ms(change.due),
            "" if change.summary is None else "summary",
            change.summary or b"",
            "" if change.ttl is None else to_duration_ms(change.ttl),
            "" if change.news is None else change.news,
            identify_commit(owner, epoch, change) if change.lease is None else "",
            MAX_LOG_ENTRIES,
            len(written),
            len(removed),
            self._commits.get((id, owner, epoch), 0),
            *_pairs(written),
            *removed,
            *(word for entry in change.log for word in entry),
        ]
        reply = self._run_on_record(lua.COMMIT, id, *arguments)
        if not reply:
            self._commits.pop((id, owner, epoch), None)
            return None
        applied, lease_until, now, news, commits = reply[:5]
        if change.lease is None and applied:
            self._commits.pop((id, owner, epoch), None)
        else:
            self._commits[id, owner, epoch] = int(commits)
        if len(reply) == 6:
            self._write_index(_parse_head(id, reply[5], now))
        return Committed(bool(applied), int(lease_until) / 1000, int(now) / 1000, int(news))

    def post(
        self, id: str, fields: Mapping[str, bytes], due: Optional[float] = None
    ) -> Optional[bool]:
        """Add fields to a record without its lease, in one step, and wake those who wait."""
        moment = "" if due is None else to_moment_ms(due)
        token = uuid.uuid4().hex[:16]  # identifies this post if it is sent again
        reply = self._run_on_record(lua.POST, id, token, moment, *_pairs(fields))
        if not reply:
            return None
        written, now, head_reply = reply
        self._write_index(_parse_head(id, head_reply, now))
        return bool(written)

    def delete(self, id: str) -> bool:
        """Remove a record with its log, even if its lease is held. Return whether it existed."""
        # Looked up before, because the reply to a removal that is sent again is "no record".
        found = self._find(id)
        removed = self._run_on_record(lua.DELETE, id)
        if found is not None and self.connection.clustered:
            self._run_on_index(lua.REMOVE_FROM_INDEX, found.created, id=id)
        return found is not None or bool(removed)

    # Reading

    def get(self, id: str, with_fields: bool = True) -> Optional[Snapshot]:
        """Return a record; None if there is none."""
        found = self._find(id, with_fields)
        return None if found is None else found.snapshot

    def _find(self, id: str, with_fields: bool = False) -> "Optional[_Head]":
        reply = self._run_on_record(lua.GET, id, "fields" if with_fields else "")
        return _parse_head(id, reply[2], reply[0], reply[1]) if reply else None

    def _find_many(self, ids: List[str]) -> "List[Optional[_Head]]":
        if self.connection.clustered or not ids:
            return [self._find(id) for id in ids]
        found: List[Optional[_Head]] = []
        for start in range(0, len(ids), BATCH_SIZE):
            batch = ids[start : start + BATCH_SIZE]
            keys = [self._record_keys(id)[0] for id in batch]
            now, *replies = self._run(lua.READ_HEADS, keys, [""])
            found += [
                _parse_head(id, reply, now) if reply else None for id, reply in zip(batch, replies)
            ]
        return found

    def list(
        self,
        statuses: Optional[Collection[str]] = None,
        tags: Optional[Mapping[str, str]] = None,
        since: Optional[float] = None,
        until: Optional[float] = None,
        after: Optional[Tuple[float, str]] = None,
        limit: int = 100,
    ) -> List[Snapshot]:
        """Return the heads of records, the newest first."""
        if statuses is not None and not statuses:
            return []
        upper = min(
            b"~" if until is None else _member(until),
            b"~" if after is None else _member(after[0], after[1]),
        )
        lower: bytes = b"-" if since is None else b"[" + _member(since)
        filters = [""] if statuses is None else [len(statuses), *statuses]
        lines = encode_tags(tags or {})
        filters += lines.split("\n") if lines else []
        found: List[Snapshot] = []
        while upper and len(found) < limit:
            count = min(limit - len(found), BATCH_SIZE)
            upper, *reply = self._run_on_index(lua.LIST, count, b"(" + upper, lower, *filters)
            candidates = [
                _Candidate(member[lua.MOMENT_WIDTH :].decode("utf-8"), *_parse_entry(entry))
                for member, entry in zip(reply[::2], reply[1::2])
            ]
            for head in self._read_candidates(candidates)[0]:
                if statuses is None or head.snapshot.status in statuses:
                    found.append(head.snapshot)
        return found

    def ready(self, limit: int = 100) -> List[Snapshot]:
        """Return the heads of records that are due and whose lease has ended."""
        # At least a batch, because the index may show the records of many live drivers as ready.
        count = max(limit, BATCH_SIZE)
        while True:
            reply = self._run_on_index(lua.READY, count)
            candidates = [
                _Candidate(id.decode("utf-8"), *_parse_entry(entry), score)
                for id, score, entry in zip(*[iter(reply)] * 3)
            ]
            heads, is_exact = self._read_candidates(candidates)
            if is_exact:
                return [head.snapshot for head in heads[:limit]]

    def _read_candidates(self, candidates: "List[_Candidate]") -> "Tuple[List[_Head], bool]":
        """Return the records that exist, and correct the index where it shows something else.

        Returns the records, and whether nothing had to be corrected.
        """
        heads: List[_Head] = []
        corrections: List[Any] = []
        found = self._find_many([candidate.id for candidate in candidates])
        for candidate, head in zip(candidates, found):
            if head is not None and head.created == candidate.created:
                heads.append(head)
            if head is None:
                state: List[Any] = ["absent"] + [""] * 6
            elif candidate.agrees_with(head):
                continue
            else:
                state = ["record", *head.state]
            corrections += [candidate.id, candidate.created, candidate.version, *state]
        if corrections:
            self._run_on_index(lua.CORRECT_INDEX, *corrections)
        return heads, not corrections

    def count(self) -> Dict[str, int]:
        """Return the number of records by status, from the index."""
        more = 1
        while more:
            more, *reply = self._run_on_index(lua.COUNT)
        return {status.decode("utf-8"): number for status, number in zip(reply[::2], reply[1::2])}

    def read_log(self, id: str, after: int = 0, limit: int = 1000) -> List[LogEntry]:
        """Return the entries of a log with a number above `after`, in their order."""
        reply = self._run_on_record(lua.READ_LOG, id, after, limit)
        return [LogEntry(int(name.split(b"-")[0]), words[1]) for name, words in reply]

    # Waiting

    def wait(
        self,
        id: str,
        news: Optional[int],
        log_number: Optional[int],
        timeout: float,
        cancellation: Cancellation,
    ) -> None:
        """Wait for a post, for a log entry, or for the removal of the record."""
        cancellation.raise_if_cancelled()
        head_key, *_, bell, post_bell = self._record_keys(id)
        if log_number is None:
            bell = post_bell
        end = clock.real() + timeout
        while True:
            known_news, known_number = self.connection.send_idempotent(
                head_key, "HMGET", head_key, "news", "last_number", limits=Limits(cancellation)
            )
            if (
                known_news is None
                or (news is not None and int(known_news) > news)
                or (log_number is not None and int(known_number) > log_number)
            ):
                return
            remaining = end - clock.real()
            if cancellation.remaining is not None:
                remaining = min(remaining, cancellation.remaining)
            if remaining <= 0:
                cancellation.raise_if_cancelled()
                return
            try:
                limits = Limits(cancellation, CALL_SECONDS)
                self.connection.wait_for_element(bell, min(WAIT_SECONDS, remaining), limits)
            except CacheUnavailable:
                pass  # the next look finds out whether that persists

    def now(self) -> float:
        """Return the present moment by the store's clock."""
        if self.clock is not None:
            return self.clock() / 1000
        key = self._index_keys[0]
        seconds, microseconds = self.connection.send_idempotent(key, "TIME")
        return int(seconds) + int(microseconds) // 1000 / 1000


class _Head(NamedTuple):
    """A record that was read.

    created: the moment of its creation, as the index shows it.
    state: what `lua.WRITE_INDEX` writes.
    """

    snapshot: Snapshot
    created: bytes
    state: List[bytes]


class _Candidate(NamedTuple):
    """A record that the index shows, with the moment of its creation and its version.

    score: the moment from which the index shows it as ready; None if that was not read.
    """

    id: str
    created: bytes
    version: bytes
    score: Optional[bytes] = None

    def agrees_with(self, head: _Head) -> bool:
        """Return whether the index shows the record as it is."""
        created, version, _, ready = head.state[:4]
        is_current = (created, version) == (self.created, self.version)
        return is_current and (self.score is None or self.score == ready)


def _parse_head(id: str, words: List[bytes], now: bytes, fields: Sequence[bytes] = ()) -> _Head:
    status, tags, summary, created, updated, owner, epoch, lease_until, due = words[:9]
    news, version, expires, last_number = words[9:]
    snapshot = Snapshot(
        id,
        status.decode("utf-8"),
        decode_tags(tags.decode("utf-8")),
        summary,
        int(created) / 1000,
        int(updated) / 1000,
        owner.decode("utf-8"),
        int(epoch),
        int(lease_until) / 1000,
        int(due) / 1000 if due else None,
        int(news),
        int(last_number),
        int(now) / 1000,
        {name.decode("utf-8"): data for name, data in zip(fields[::2], fields[1::2])},
    )
    ready = b"%d" % max(int(due), int(lease_until)) if due else b""
    return _Head(snapshot, created, [created, version, status, ready, expires, tags])


def _parse_entry(entry: bytes) -> Tuple[bytes, bytes]:
    """Return the moment of creation and the version of an entry of the index."""
    created, version = (entry.split(b"\n", 2) + [b"", b""])[:2]
    return created, version


def _member(moment: float, id: str = "") -> bytes:
    """Return the member of the index for a record that was created at this moment."""
    return f"{to_moment_ms(moment):0{lua.MOMENT_WIDTH}d}{id}".encode("utf-8")


def _pairs(fields: Mapping[str, bytes]) -> List[Any]:
    return [word for pair in fields.items() for word in pair]
