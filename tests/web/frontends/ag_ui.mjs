// The client of AG-UI against the server at argv[2]. Prints what it has received as JSON.
//
// HttpAgent checks each event against the schemas, and `verify` their order; both reject the run.
import {HttpAgent} from "@ag-ui/client";

const [, , server] = process.argv;

async function run(agent, parameters) {
  const events = [];
  const subscriber = {onEvent: ({event}) => { events.push(event.type); }};
  let error = null;
  try {
    await agent.runAgent(parameters, subscriber);
  } catch (raised) {
    error = raised.message;
  }
  const {messages, pendingInterrupts} = structuredClone({
    messages: agent.messages,
    pendingInterrupts: agent.pendingInterrupts,
  });
  return {events, error, messages, pendingInterrupts};
}

function open(path) {
  const initialMessages = [{id: "u1", role: "user", content: "clean up"}];
  return new HttpAgent({url: server + path, threadId: path, initialMessages});
}

async function converse(payload) {
  const agent = open("/ag-ui");
  agent.threadId = JSON.stringify(payload);
  const asked = await run(agent, {});
  const resume = asked.pendingInterrupts.map(
    ({id}) => payload ? {interruptId: id, status: "resolved", payload} : {interruptId: id, status: "cancelled"}
  );
  return {asked, answered: await run(agent, {resume})};
}

console.log(JSON.stringify({
  approved: await converse({approved: true}),
  edited: await converse({approved: true, editedArgs: {path: "/tmp/y"}}),
  cancelled: await converse(null),
  retry: await run(open("/ag-ui/retry"), {}),
  error: await run(open("/ag-ui/error"), {}),
  thinking: await run(open("/ag-ui/thinking"), {}),
  question: await run(open("/ag-ui/question"), {}),
}));
