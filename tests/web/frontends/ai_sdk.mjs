// A chat of the AI SDK against the server at argv[2]. Prints what it has received as JSON.
//
// The transport checks each chunk against the SDK's schema; `readUIMessageStream` and the chat fail
// at a chunk that is out of order.
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  readUIMessageStream,
} from "ai";

const [, , server] = process.argv;

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = message => this.messages.push(message);
  popMessage = () => this.messages.pop();
  replaceMessage = (index, message) => { this.messages[index] = structuredClone(message); };
  snapshot = value => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor(init) {
    super({...init, state: new State()});
  }
}

function transport(path) {
  return new DefaultChatTransport({api: server + path});
}

// One message, as `readUIMessageStream` makes it.
async function read(path) {
  const request = {chatId: "x", messages: [], trigger: "submit-message"};
  const stream = await transport(path).sendMessages(request);
  const snapshots = [];
  const errors = [];
  for await (const message of readUIMessageStream({stream, onError: error => errors.push(error)}))
    snapshots.push(message);
  return {
    message: snapshots.at(-1),
    count: snapshots.length,
    errors: errors.map(error => error.message),
  };
}

// A whole conversation, with the decision about a call.
async function converse(approved) {
  const errors = [];
  const chat = new Chat({
    id: `chat-${approved}`,
    transport: transport("/chat"),
    onError: error => errors.push(error.message),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
  });
  await chat.sendMessage({text: "clean up"});
  const waiting = chat.lastMessage.parts.find(part => part.state === "approval-requested");
  const asked = structuredClone(chat.messages);
  await chat.addToolApprovalResponse({id: waiting.approval.id, approved});
  const finished = () => chat.status === "ready" && chat.lastMessage.parts.at(-1).type === "text";
  for (let tries = 0; tries < 400 && errors.length === 0 && !finished(); tries++)
    await new Promise(resolve => setTimeout(resolve, 25));
  return {asked, messages: chat.messages, status: chat.status, errors};
}

async function resume() {
  const chat = new Chat({id: "stored", transport: transport("/chat")});
  await chat.resumeStream();
  return {messages: chat.messages, status: chat.status};
}

console.log(JSON.stringify({
  approved: await converse(true),
  refused: await converse(false),
  retry: await read("/retry"),
  error: await read("/error"),
  thinking: await read("/thinking"),
  resumed: await resume(),
}));
