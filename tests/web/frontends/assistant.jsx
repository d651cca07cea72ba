// A chat of assistant-ui, with its own runtime for the AI SDK and no styles.
import {createRoot} from "react-dom/client";
import {
  AssistantRuntimeProvider,
  ComposerPrimitive,
  MessagePrimitive,
  ThreadPrimitive,
} from "@assistant-ui/react";
import {AssistantChatTransport, useChatRuntime} from "@assistant-ui/react-ai-sdk";
import {lastAssistantMessageIsCompleteWithApprovalResponses} from "ai";

function Tool({toolName, argsText, result, approval, respondToApproval}) {
  const waits = approval && approval.approved === undefined && result === undefined;
  return (
    <div className="tool" data-tool={toolName}>
      <code>{toolName} {argsText}</code>
      {result !== undefined && <output>{JSON.stringify(result)}</output>}
      {waits && <button onClick={() => respondToApproval({approved: true})}>Approve</button>}
    </div>
  );
}

function Assistant() {
  return (
    <MessagePrimitive.Root className="assistant">
      <MessagePrimitive.Parts components={{tools: {Fallback: Tool}}} />
    </MessagePrimitive.Root>
  );
}

function User() {
  return <MessagePrimitive.Root className="user"><MessagePrimitive.Parts /></MessagePrimitive.Root>;
}

function Chat() {
  const runtime = useChatRuntime({
    transport: new AssistantChatTransport({api: "/chat"}),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
  });
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ThreadPrimitive.Root>
        <ThreadPrimitive.Messages components={{UserMessage: User, AssistantMessage: Assistant}} />
        <ComposerPrimitive.Root>
          <ComposerPrimitive.Input />
          <ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
        </ComposerPrimitive.Root>
      </ThreadPrimitive.Root>
    </AssistantRuntimeProvider>
  );
}

createRoot(document.getElementById("root")).render(<Chat />);
