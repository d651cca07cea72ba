"""The names of operations, attributes and metrics in both generations of the GenAI conventions.

- V1_41: version 1.41.0, the last one in the main repository of OpenTelemetry's conventions
  (https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai).
- LATEST: the conventions as developed since
  (https://github.com/open-telemetry/semantic-conventions-genai, with its migration guide).

The conventions have no names for the tasks of a graph; those are under `asimov.`.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

__all__ = ["ATTRIBUTES", "LATEST", "V1_41", "Generation", "Metric"]

# Operations

CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"
INVOKE_WORKFLOW = "invoke_workflow"
TASK = "task"

# Attributes of spans and metrics

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"
OPERATION_NAME = "gen_ai.operation.name"
OUTPUT_TYPE = "gen_ai.output.type"
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

# Content attributes: recorded only if the user opts in

INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"

CONTENT = frozenset(
    [
        INPUT_MESSAGES,
        OUTPUT_MESSAGES,
        SYSTEM_INSTRUCTIONS,
        TOOL_CALL_ARGUMENTS,
        TOOL_CALL_RESULT,
        TOOL_DEFINITIONS,
    ]
)

# Attributes of this library

RUN_ID = "asimov.run.id"
RUN_STATUS = "asimov.run.status"
TASK_ATTEMPT = "asimov.task.attempt"
TASK_ID = "asimov.task.id"
TASK_NAME = "asimov.task.name"
TASK_STATUS = "asimov.task.status"
TASK_TYPE = "asimov.task.type"
TASK_VISIT = "asimov.task.visit"

# Attributes that are not part of the conventions: recorded only if the user opts in

INPUT_VALUE = "input.value"
OUTPUT_VALUE = "output.value"
INPUT_MIME_TYPE = "input.mime_type"
OUTPUT_MIME_TYPE = "output.mime_type"
SPAN_KIND = "openinference.span.kind"
USAGE_COST = "gen_ai.usage.cost"

OPENINFERENCE = frozenset(
    [
        INPUT_MIME_TYPE,
        INPUT_VALUE,
        OUTPUT_MIME_TYPE,
        OUTPUT_VALUE,
        SPAN_KIND,
        USAGE_COST,
    ]
)

ATTRIBUTES = frozenset(
    value
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, str) and "." in value
)
"""All attributes of both generations."""

# Values

ANTHROPIC, AWS_BEDROCK, OPENAI = "anthropic", "aws.bedrock", "openai"
ERROR = "error"
JSON = "json"
TEXT = "text"
CHAIN, AGENT, LLM, TOOL = "CHAIN", "AGENT", "LLM", "TOOL"
FUNCTION = "function"
INPUT, OUTPUT = "input", "output"
OTHER = "_OTHER"
UNKNOWN = "unknown"


# Metrics


class Metric(NamedTuple):
    """A metric. boundaries: the bucket boundaries if it is a histogram."""

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
        ("input_tokens", "Input tokens, including cached ones."),
        ("output_tokens", "Output tokens, including reasoning."),
        ("cache_read.input_tokens", "Input tokens read from the provider's cache."),
        ("cache_write.input_tokens", "Input tokens written to the provider's cache."),
        ("reasoning.output_tokens", "Output tokens used for reasoning."),
    )
)


class Generation(NamedTuple):
    """The differences between the generations. A metric is None if a generation does not have it.

    schema_url: the schema of the names, or None if no version was released.
    cache_write_input_tokens: the attribute for input tokens written to the cache.
    top_k: converts the option top_k to the type of its attribute.
    incomplete_reasons: the finish reasons of a reply that did not complete.
    agent_provider: whether an agent's span has the provider and the cache tokens.
    object_results: whether the result of a tool has to be a JSON object.
    first_chunk, later_chunk: the metrics of a stream's time to the first chunk and between chunks.
    usage: the histogram of all tokens, split by token type.
    usage_counters: counters of input, output, cache read, cache write and reasoning tokens.
    tokens: histograms of the input and output tokens of one request.
    """

    schema_url: Optional[str]
    cache_write_input_tokens: str
    top_k: Callable[[Any], Any]
    incomplete_reasons: Tuple[str, ...]
    agent_provider: bool
    object_results: bool
    duration: Metric
    first_chunk: Metric
    later_chunk: Metric
    usage: Optional[Metric]
    usage_counters: Tuple[Metric, ...]
    tokens: Tuple[Metric, ...]
    agent_duration: Optional[Metric] = None
    agent_requests: Optional[Metric] = None
    agent_tools: Optional[Metric] = None
    tool_duration: Optional[Metric] = None
    workflow_duration: Optional[Metric] = None


V1_41 = Generation(
    schema_url="https://opentelemetry.io/schemas/1.41.0",
    cache_write_input_tokens=USAGE_CACHE_CREATION_INPUT_TOKENS,
    top_k=float,
    incomplete_reasons=(),
    agent_provider=True,
    object_results=False,
    duration=Metric(
        "gen_ai.client.operation.duration", "s", "Duration of a model request.", SECONDS
    ),
    first_chunk=Metric(
        "gen_ai.client.operation.time_to_first_chunk",
        "s",
        "Time until the first chunk of a stream.",
        SECONDS,
    ),
    later_chunk=Metric(
        "gen_ai.client.operation.time_per_output_chunk",
        "s",
        "Time between two chunks of a stream.",
        SECONDS,
    ),
    usage=Metric("gen_ai.client.token.usage", "{token}", "Tokens used by a request.", TOKENS),
    usage_counters=(),
    tokens=(),
)

LATEST = Generation(
    schema_url=None,  # no version was released so far
    cache_write_input_tokens=USAGE_CACHE_WRITE_INPUT_TOKENS,
    top_k=int,
    incomplete_reasons=(ERROR,),
    agent_provider=False,
    object_results=True,
    duration=Metric(
        "gen_ai.client.inference.duration", "s", "Duration of a model request.", SECONDS
    ),
    first_chunk=Metric(
        "gen_ai.client.inference.time_to_first_chunk",
        "s",
        "Time until the first chunk of a stream.",
        SECONDS,
    ),
    later_chunk=Metric(
        "gen_ai.client.inference.time_per_output_chunk",
        "s",
        "Time between two chunks of a stream.",
        SECONDS,
    ),
    usage=None,
    usage_counters=USAGE_COUNTERS,
    tokens=(
        Metric(
            "gen_ai.client.inference.operation.input_tokens",
            "{token}",
            "Input tokens of one request.",
            TOKENS,
        ),
        Metric(
            "gen_ai.client.inference.operation.output_tokens",
            "{token}",
            "Output tokens of one request.",
            TOKENS,
        ),
    ),
    agent_duration=Metric(
        "gen_ai.invoke_agent.duration", "s", "Duration of an agent run.", AGENT_SECONDS
    ),
    agent_requests=Metric(
        "gen_ai.invoke_agent.inference_calls",
        "{inference_call}",
        "Model requests of an agent run.",
        CALLS,
    ),
    agent_tools=Metric(
        "gen_ai.invoke_agent.tool_calls", "{tool_call}", "Tool calls of an agent run.", CALLS
    ),
    tool_duration=Metric("gen_ai.execute_tool.duration", "s", "Duration of a tool call.", SECONDS),
    workflow_duration=Metric(
        "gen_ai.invoke_workflow.duration", "s", "Duration of a run.", WORKFLOW_SECONDS
    ),
)
