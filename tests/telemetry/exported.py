"""In-memory providers of OpenTelemetry's SDK, and views of what they recorded."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asimov_sync.telemetry import names

GENERATIONS = {"": names.V1_41, "gen_ai_latest_experimental": names.LATEST}


class Exported:
    """Providers for `install()`, and the spans and metrics that they recorded."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self._found = {}  # OpenTelemetry 1.22 reports a histogram again only if it changed
        self.tracer = self.tracer_provider.get_tracer("tests")
        self.span = self.tracer.start_as_current_span

    @property
    def spans(self):
        """The ended spans, sorted by their start."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def spans_named(self, name):
        """Return all spans with a name."""
        return [span for span in self.spans if span.name == name]

    def only_span(self, name):
        """Return the only span with a name."""
        (span,) = self.spans_named(name)
        return span

    def paths(self):
        """Return the path of each span from its root, sorted; failed spans are marked ERROR."""
        spans = {span.context.span_id: span for span in self.spans}

        def path(span):
            name = (
                span.name
                if span.status.is_unset
                else span.name + " " + span.status.status_code.name
            )
            return (
                (path(spans[span.parent.span_id]) if span.parent is not None else "") + "/" + name
            )

        return sorted(path(span) for span in spans.values())

    def metrics(self):
        """Return our metrics by name. Some releases of the SDK also record metrics of their own."""
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics if scope.scope.name == "asimov_sync" else ():
                    self._found[metric.name] = metric
        return self._found

    def points(self, name):
        """Return the data points of a metric."""
        return list(self.metrics()[name].data.data_points)

    def attributes(self):
        """Return the names of all attributes of spans and metrics."""
        found = {
            name
            for span in self.spans
            if span.instrumentation_scope.name == "asimov_sync"
            for name in span.attributes
        }
        for metric in self.metrics().values():
            found.update(name for point in metric.data.data_points for name in point.attributes)
        return found
