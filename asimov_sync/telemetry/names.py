"""Every name that telemetry uses: of operations, attributes and metrics, in both present generations of the GenAI conventions.

The names of OpenTelemetry's semantic conventions are in force as of v1.41.0, the last version in their main repository
(https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai), and as they have been developed since
(https://github.com/open-telemetry/semantic-conventions-genai, with its migration guide). What conventions have no word for,
a graph's tasks, is under `asimov`.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

__all__ = ["ATTRIBUTES", "LATEST", "V1_41", "Generation", "Metric"]

# What happens

CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"
INVOKE_WORKFLOW = "invoke_workflow"
TASK = "task"

# The attributes of spans and metrics

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

AGENT_NAME = "gen_ai.agent.name"
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
WORKFLOW_NAME = "gen_ai.workflow.name"

REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STOP_SEQUENCES = "gen_ai.request.stop_sequences"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_K = "gen_ai.request.top_k"
REQUEST_TOP_P = "gen_ai.request.top_p"

RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"

USAGE_CACHE_CREATION_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS = "gen_ai.usage.cache_write.input_tokens"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"

TOKEN_MODALITY = "gen_ai.token.modality"
TOKEN_TYPE = "gen_ai.token.type"

TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_DESCRIPTION = "gen_ai.tool.description"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"

# Content, which is told only where it is asked for

INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"

CONTENT = frozenset([INPUT_MESSAGES, OUTPUT_MESSAGES, SYSTEM_INSTRUCTIONS, TOOL_CALL_ARGUMENTS, TOOL_DEFINITIONS])

# Ours

RUN_ID = "asimov.run.id"
RUN_STATUS = "asimov.run.status"
TASK_ATTEMPT = "asimov.task.attempt"
TASK_ID = "asimov.task.id"
TASK_NAME = "asimov.task.name"
TASK_STATUS = "asimov.task.status"
TASK_TYPE = "asimov.task.type"
TASK_VISIT = "asimov.task.visit"

ATTRIBUTES = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str) and "." in value
)
"""Every attribute of both generations."""

# Values

ANTHROPIC, AWS_BEDROCK, OPENAI = "anthropic", "aws.bedrock", "openai"
ERROR = "error"
FUNCTION = "function"
INPUT, OUTPUT = "input", "output"
OTHER = "_OTHER"
UNKNOWN = "unknown"


# Metrics


class Metric(NamedTuple):
    """A metric, and the buckets that a histogram of it should have."""

    name: str
    unit: str
    description: str
    boundaries: Tuple[float, ...] = ()


SECONDS = tuple(0.01 * 2**power for power in range(14))
AGENT_SECONDS = tuple(0.1 * 2**power for power in range(13))
WORKFLOW_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
TOKENS = tuple(4.0**power for power in range(14))
CALLS = tuple(2.0**power for power in range(8))

USAGE_COUNTERS = tuple(
    Metric("gen_ai.client.inference.usage." + name, "{token}", description)
    for name, description in (
        ("input_tokens", "Tokens that went in, cached ones included."),
        ("output_tokens", "Tokens that came out, those of reasoning included."),
        ("cache_read.input_tokens", "Tokens that went in and were read from the provider's cache."),
        ("cache_write.input_tokens", "Tokens that went in and were written to the provider's cache."),
        ("reasoning.output_tokens", "Tokens that came out as reasoning."),
    )
)


class Generation(NamedTuple):
    """What differs between the generations. None, or nothing, for what one of them does not have."""

    schema_url: Optional[str]
    cache_write_input_tokens: str
    top_k: Callable[[Any], Any]
    given_up: Tuple[str, ...]  # the finish reasons of a reply that did not come to its end
    agent_provider: bool  # whether the span of an agent has the provider, and what it read from and wrote to its cache
    message_finish_reason: bool  # whether a message that came says why it ended
    duration: Metric
    first_chunk: Metric
    usage: Optional[Metric]  # of all tokens, by their type
    usage_counters: Tuple[Metric, ...]  # in, out, read from the cache, written to it, reasoning
    tokens: Tuple[Metric, ...]  # of one request: in, out
    agent_duration: Optional[Metric] = None
    agent_requests: Optional[Metric] = None
    agent_tools: Optional[Metric] = None
    tool_duration: Optional[Metric] = None
    workflow_duration: Optional[Metric] = None


V1_41 = Generation(
    schema_url="https://opentelemetry.io/schemas/1.41.0",
    cache_write_input_tokens=USAGE_CACHE_CREATION_INPUT_TOKENS,
    top_k=float,
    given_up=(),
    agent_provider=True,
    message_finish_reason=True,
    duration=Metric("gen_ai.client.operation.duration", "s", "How long a request to a model took.", SECONDS),
    first_chunk=Metric(
        "gen_ai.client.operation.time_to_first_chunk", "s", "How long the first piece of a stream took.", SECONDS
    ),
    usage=Metric("gen_ai.client.token.usage", "{token}", "Tokens that a request used.", TOKENS),
    usage_counters=(),
    tokens=(),
)

LATEST = Generation(
    schema_url=None,  # none of it was released so far
    cache_write_input_tokens=USAGE_CACHE_WRITE_INPUT_TOKENS,
    top_k=int,
    given_up=(ERROR,),
    agent_provider=False,
    message_finish_reason=False,
    duration=Metric("gen_ai.client.inference.duration", "s", "How long a request to a model took.", SECONDS),
    first_chunk=Metric(
        "gen_ai.client.inference.time_to_first_chunk", "s", "How long the first piece of a stream took.", SECONDS
    ),
    usage=None,
    usage_counters=USAGE_COUNTERS,
    tokens=(
        Metric("gen_ai.client.inference.operation.input_tokens", "{token}", "Tokens that went in, of one request.", TOKENS),
        Metric("gen_ai.client.inference.operation.output_tokens", "{token}", "Tokens that came out, of one request.", TOKENS),
    ),
    agent_duration=Metric("gen_ai.invoke_agent.duration", "s", "How long an agent took.", AGENT_SECONDS),
    agent_requests=Metric("gen_ai.invoke_agent.inference_calls", "{inference_call}", "Requests of an agent's run.", CALLS),
    agent_tools=Metric("gen_ai.invoke_agent.tool_calls", "{tool_call}", "Tool calls of an agent's run.", CALLS),
    tool_duration=Metric("gen_ai.execute_tool.duration", "s", "How long a tool took.", SECONDS),
    workflow_duration=Metric("gen_ai.invoke_workflow.duration", "s", "How long a run took.", WORKFLOW_SECONDS),
)
