"use strict";

const messages = document.getElementById("messages");
const form = document.getElementById("form");
const input = document.getElementById("text");
const chat = crypto.randomUUID();
let calls = {};     // the cards of the tool calls of the present answer, by id
let text = null;    // the paragraph that grows

form.addEventListener("submit", event => {
  event.preventDefault();
  const question = input.value.trim() || input.placeholder;
  input.value = "";
  add("p", "user", question);
  send({text: question});
});

async function send(body) {
  form.inert = true;
  text = null;
  try {
    const headers = {"Content-Type": "application/json", "X-CSRFToken": cookie("csrftoken")};
    const request = {method: "POST", headers, body: JSON.stringify({chat, ...body})};
    const response = await fetch("chat", request);
    if (!response.ok) throw new Error((await response.json()).error);
    for await (const event of readEvents(response.body)) handlers[event.type]?.(event);
  } catch (error) {
    add("p", "error", error.message);
  }
  form.inert = messages.querySelector(".waits") !== null;
  input.focus();
}

// The events of a response of server-sent events.
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let received = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const frames = (received + value).split("\n\n");
    received = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").find(line => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

const handlers = {
  text_delta(event) {
    text = text || add("p", "assistant", "");
    text.append(event.text);
    text.scrollIntoView({block: "end"});
  },
  tool_call_ready({call}) {
    text = null;
    showCall(call);
  },
  tool_started({call}) {
    (calls[call.id] || showCall(call)).className = "call runs";
  },
  tool_finished({call, result, error}) {
    calls[call.id].className = error ? "call failed" : "call done";
    calls[call.id].append(element("output", "", error || show(result, 1)));
    text = null;
  },
  tool_run_done({run}) {
    const decisions = {};
    for (const call of run.pending) askFor(call, run.pending.length, decisions);
  },
  error(event) {
    add("p", "error", `The answer was interrupted: ${event.error}`);
  },
};

function showCall(call) {
  calls[call.id] = add("div", "call", "");
  calls[call.id].append(element("code", "", `${call.name}(${show(call.arguments)})`));
  return calls[call.id];
}

// Ask for a decision about a call that waits, and send all decisions once there are enough.
function askFor(call, count, decisions) {
  const card = calls[call.id];
  card.className = "call waits";
  const buttons = element("div", "buttons", "");
  for (const [label, yes] of [["Approve", true], ["Refuse", false]]) {
    const button = element("button", "", label);
    button.addEventListener("click", () => {
      buttons.remove();
      card.className = yes ? "call runs" : "call refused";
      decisions[call.id] = yes;
      if (Object.keys(decisions).length === count) send({decisions});
    });
    buttons.append(button);
  }
  card.append(buttons);
  card.scrollIntoView({block: "end"});
}

function add(tag, className, content) {
  const added = element(tag, className, content);
  messages.append(added);
  added.scrollIntoView({block: "end"});
  return added;
}

// An element with a text: what a model or a tool wrote never becomes HTML.
function element(tag, className, content) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content;
  return made;
}

// JSON in which no character is invisible or changes the direction of the text, so that a person
// sees what a call really asks for.
function show(value, indent) {
  const hidden = /[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const tags = /\udb40[\udc00-\udfff]/g;
  const escape = text => text.split("").map(
    one => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0")).join("");
  return JSON.stringify(value, null, indent).replace(hidden, escape).replace(tags, escape);
}

function cookie(name) {
  const found = document.cookie.split("; ").find(one => one.startsWith(`${name}=`));
  return found ? found.slice(name.length + 1) : "";
}
