"""A graph of about 100 tasks with each feature of durable runs, and the account of its drives.

Beside the graph of drivers.py it has layers of tasks that are retried, a wide map, and agents whose
tools work side by side and need approvals. Each drive notes what it begins: handlers and tools in a
file, requests in the log of the model server. No later drive begins what was committed.
"""

import collections
import json
import os
import re

import tenacity

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    Retry,
    RunStore,
    Task,
    TaskScheduler,
    ToolCall,
    current_context,
    tool,
)
from asimov_sync.runs.codec import parse_field_name
from asimov_sync.testing import ModelServer

from .drivers import RUN_ID, Actor, everything, outcome

LAYERS, WIDTH, ITEMS, AGENTS = 8, 5, 35, 6

COMMITTED = {"task_finished", "task_retried"}
"""The types of the events of an attempt that is not made again."""


def workload():
    """Return the graph."""
    graph = everything()
    again = Retry(attempts=2, wait=tenacity.wait_none())
    for layer in range(LAYERS):
        for number in range(WIDTH):
            name = f"layer-{layer}-{number}"
            before = (number, (number + 1) % WIDTH) if layer else ()
            graph.add(
                Task(type="act", objective=name),
                name=name,
                depends_on=[f"layer-{layer - 1}-{one}" for one in before],
                retry=again if number == 0 else None,
            )
    items = graph.map(
        Task(type="act", objective="item"),
        [{"id": f"k{number}"} for number in range(ITEMS)],
        name="item",
        key=lambda item: item["id"],
    )
    agents = [
        graph.add(Task(type="research", objective=f"<agent-{number}>"), name=f"agent-{number}")
        for number in range(AGENTS)
    ]
    graph.add(Task(type="act", objective="summary"), name="summary", depends_on=[*items, *agents])
    return graph


# The models


def answer(body):
    """Answer an agent: two tools at once, then one, then another that may need approval."""
    number = int(re.search(r"<agent-(\d)>", json.dumps(body["messages"][0])).group(1))
    turn = len(body["messages"]) // 2

    def call(name, part):
        return ToolCall(id=f"{number}-{turn}-{part}", name=name, arguments={"word": part})

    if turn == 0:
        return [call("look", "x"), call("look", "y")]
    if turn == 1:
        return [call("write", "z")]
    if turn == 2:
        return [call("pay" if number % 3 == 0 else "look", "w")]
    return f"agent {number} has finished"


def serve():
    """Return a server of the models."""
    return ModelServer(answer)


def request_note(request):
    """Return which request of which agent the server has received, as a note."""
    messages = request.body["messages"]
    agent = re.search(r"<(agent-\d)>", json.dumps(messages)).group(1)
    return "request", agent, len(messages) // 2


# The drivers


class Worker(Actor):
    """The handler of the graph, which notes each attempt. notes: the file of the notes."""

    def effect(self, context):
        """Note an attempt; or a step, whose key has one part more."""
        is_step = context.idempotency_key.count("/") > 2
        note = ["step", context.idempotency_key]
        if not is_step:
            note = ["attempt", context.name, context.visit, context.attempt]
        write_note(self.file, note)

    def __call__(self, task, context):
        name = context.name
        if name.startswith("layer-") and name.endswith("-0") and context.attempt == 1:
            self.effect(context)
            self._client.generate(name)
            raise ValueError(f"{name} fails at first")
        return super().__call__(task, context)


def write_note(file, note):
    """Append a note in one write."""
    os.write(file, (json.dumps(note) + "\n").encode())


def read_notes(path):
    """Return the notes as tuples."""
    lines = path.read_text().splitlines() if path.exists() else ()
    return [tuple(json.loads(line)) for line in lines]


def drive_once(open_cache, url, notes, name, on_call=None, workers=4, **options):
    """Drive the run until it ends or parks.

    name: the name of the drive, which each request to a model has as its API key.

    Returns the outcome, or None if it has parked.
    """
    cache = open_cache()
    if on_call is not None:
        cache = on_call(cache)
    worker = Worker(notes)

    def note_call():
        write_note(worker.file, ["tool", current_context().idempotency_key])

    @tool
    def look(word: str) -> str:
        """Look a word up."""
        note_call()
        return f"what {word} means"

    @tool(sequential=True)
    def write(word: str) -> str:
        """Write a word down."""
        note_call()
        return f"{word} is written"

    @tool(requires_approval=True)
    def pay(word: str) -> str:
        """Pay."""
        note_call()
        return f"{word} is paid"

    client = AnthropicInferenceClient("claude-test", api_key=name, api_url=url)
    agent = Agent(client, tools=[look, write, pay], max_workers=2)

    def research(task, context):
        worker.effect(context)
        return agent(task, context)

    store = RunStore(cache, max_recoveries=1000, **options)
    handlers = {"act": worker, "research": research}
    with TaskScheduler(handlers, max_workers=workers, runs=store) as scheduler:
        result = scheduler.run(workload(), run_id=RUN_ID)
        return None if result.waiting else outcome(result)


def decide(store):
    """Answer and approve everything that the run waits for."""
    for wait in store.waits(RUN_ID):
        if wait.call is None:
            store.answer(RUN_ID, wait.name, "Ann", task=wait.task)
        else:
            store.approve(RUN_ID, {wait.name: True})


class Account:
    """Compares what the drives of a run began with what each of them had committed at its end.

    name: a name that no other account has.
    store, records: the store of the run, and the records behind it.
    server: the model server.
    notes: the file of the notes.
    """

    def __init__(self, name, store, records, server, notes):
        self._name = name
        self._store = store
        self._records = records
        self._server = server
        self._notes = notes
        self._drives = [0]  # the number of notes at the end of each drive
        self._committed = [set()]  # at the end of each drive
        self.drives_with_work = 0

    @property
    def next_drive(self):
        """The name of the next drive."""
        return f"{self._name}/{len(self._drives)}"

    @property
    def progress(self):
        """The number of things that were begun."""
        return len(read_notes(self._notes)) + sum(map(len, self._read_requests().values()))

    def _read_requests(self):
        """Return the requests to the models, as notes, by the number of the drive."""
        received = collections.defaultdict(list)
        for request in list(self._server.requests):
            name, _, number = request.headers["x-api-key"].rpartition("/")
            if name == str(self._name) and request.body is not None:  # a kill may cut a request
                received[int(number)].append(request_note(request))
        return received

    def end_drive(self):
        """Record what a drive that has ended had committed."""
        notes = read_notes(self._notes)
        begun = set(notes[self._drives[-1] :])
        self._drives.append(len(notes))
        committed = self._read_committed()
        self._check_order(begun)
        self._committed.append(committed)
        self.drives_with_work += any(note not in committed for note in begun if note[0] != "step")

    def _check_order(self, begun):
        """Check that what a drive began was begun after the outcomes before it were stored."""
        names = {note[1] for note in begun if note[0] == "attempt"}
        if not names:
            return
        settled = {
            event["name"]
            for event in self._store.events(RUN_ID)
            if event["type"] in ("task_finished", "task_skipped")
        }
        for before, after in workload().edges:
            assert after not in names or before in settled, (before, after)

    def _read_committed(self):
        """Return the notes and the requests that belong to what is stored."""
        committed = set()
        finished = set()
        record = self._records.get(RUN_ID)
        if record is None:  # the drive ended before it was created
            return committed
        for event in self._store.events(RUN_ID):
            if event["type"] in COMMITTED:
                attempt = (event["name"], event["visit"], event["attempt"])
                committed.add(("attempt", *attempt))
            if event["type"] == "task_finished":
                finished.add(event["name"])
        entries = collections.defaultdict(list)
        for name, data in record.fields.items():
            parts = parse_field_name(name)
            if parts[0] == "entry":
                entries[parts[1:4]].append(json.loads(data.decode()))
        for (task, visit, kind), values in entries.items():
            for value in values:
                if kind.startswith("step:"):
                    committed.add(("step", f"{RUN_ID}/{task}/{visit}/{kind[5:]}"))
                elif "call" in value:
                    call = value["block"]["tool_use_id"]
                    committed.add(("tool", f"{RUN_ID}/{task}/{visit}/{call}"))
                elif "reply" in value:
                    committed.add(("request", task, value["after"]))
        for number in range(AGENTS):
            if f"agent-{number}" in finished:
                committed |= {("request", f"agent-{number}", turn) for turn in range(4)}
                for call in ("0-x", "0-y", "1-z", "2-w"):
                    key = f"{RUN_ID}/agent-{number}/1/{number}-{call}"
                    committed.add(("tool", key))
        return committed

    def check(self):
        """Check that nothing was committed twice, nor begun after it was committed."""
        begun = self._read_requests()
        notes = read_notes(self._notes)
        for drive, (start, end) in enumerate(zip(self._drives, self._drives[1:]), 1):
            begun[drive] += notes[start:end]
        everything_begun = set()
        for drive, made in begun.items():
            twice = [note for note, count in collections.Counter(made).items() if count > 1]
            assert twice == [], f"drive {drive} has done something twice"
            again = self._committed[drive - 1].intersection(made)
            assert not again, f"drive {drive} has repeated what was committed"
            everything_begun.update(made)
        assert self._committed[-1] <= everything_begun
        finished = collections.Counter(
            (event["name"], event["visit"])
            for event in self._store.events(RUN_ID)
            if event["type"] == "task_finished"
        )
        assert set(finished.values()) == {1}
        record = self._store.get(RUN_ID)
        usages = [task.usage for task in record.tasks.values() if task.usage is not None]
        assert record.usage == sum(usages[1:], usages[0])
        return finished
